// What the interactive figures share: elements, controls, maps, plots, tables, and the frame around them.
// A figure's file imports from here in its first line; `figure.py` joins the two into one ES module.

const SVG = 'http://www.w3.org/2000/svg';
const CIVIDIS = ['#00224e', '#083370', '#35456c', '#4f576c', '#666970', '#7d7c78', '#948e77', '#aea371', '#c8b866',
  '#e5cf52', '#fee838'];
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#7a7a7a'];
let count = 0;

// --- Elements ------------------------------------------------------------------------------------

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name in node && !(node instanceof SVGElement) && !name.includes('-')) node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element: `element('p', { className: 'x', onclick: f }, 'text', child)`. */
function element(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, in the same way. */
function drawn(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A number as a reader wants it: `0.125`, `12,345`, `3.2e+8`. */
function number(value, digits = 3) {
  if (value === null || value === undefined) return '–';
  if (typeof value !== 'number') return String(value);
  if (!Number.isFinite(value)) return value > 0 ? '∞' : value < 0 ? '−∞' : 'not a number';
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString('en').replace('-', '−');
  const size = Math.abs(value);
  const text = size >= 1e6 || (size < 10 ** -digits && size > 0)
    ? value.toExponential(Math.min(digits, 2)) : value.toFixed(digits);
  return text.replace('-', '−');
}

/** The colour of a share between 0 and 1, from dark blue to yellow. */
function shade(share) {
  const at = Math.min(Math.max(share || 0, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const part = (k) => [1, 3, 5].map((i) => parseInt(CIVIDIS[low + k].slice(i, i + 2), 16));
  const [a, b] = [part(0), part(1)];
  return `rgb(${a.map((x, i) => Math.round(x + (b[i] - x) * (at - low))).join(' ')})`;
}

// --- Controls: a node for the page, and `set` for when the setting is changed from elsewhere -----------

function labelled(label, input, shown) {
  input.id = `attn-control-${++count}`;
  return element('div', { className: 'attn-control' },
    element('label', { htmlFor: input.id }, label, shown ? ' ' : null, shown), input);
}

/** A slider; `format` says its value in words, also to who listens. */
function slider({ label, min, max, step = 1, value, format = (x) => number(x), change }) {
  const shown = element('span', { className: 'attn-value' });
  const input = element('input', { type: 'range', min, max, step });
  const say = () => {
    shown.textContent = format(Number(input.value));
    input.setAttribute('aria-valuetext', shown.textContent);
  };
  input.addEventListener('input', () => { say(); change(Number(input.value)); });
  const set = (now) => { input.value = now; say(); };
  set(value);
  return { node: labelled(label, input, shown), input, set };
}

/** One of several: `options` are pairs of value and text. */
function choice({ label, options, value, change }) {
  const input = element('select', {}, options.map(([key, text]) => element('option', { value: key }, text)));
  input.addEventListener('change', () => change(options[input.selectedIndex][0]));
  const set = (now) => { input.selectedIndex = options.findIndex(([key]) => key === now); };
  set(value);
  return { node: labelled(label, input), input, set };
}

/** On or off. */
function toggle({ label, value, change }) {
  const input = element('input', { type: 'checkbox' });
  input.addEventListener('change', () => change(input.checked));
  const set = (now) => { input.checked = now; };
  set(value);
  const node = labelled(label, input);
  node.classList.add('attn-toggle');
  return { node, input, set };
}

/** A line of text, or a number with `type: 'number'`; `change` is called when the reader has finished. */
function field({ label, value, change, ...attributes }) {
  const input = element('input', { type: 'text', autocomplete: 'off', spellcheck: false, ...attributes });
  input.addEventListener('change', () => change(input.value));
  const set = (now) => { if (document.activeElement !== input) input.value = now; };
  input.value = value;
  return { node: labelled(label, input), input, set };
}

/** Something that happens at a press. */
function button(label, press) {
  return element('button', { type: 'button', className: 'attn-button', onclick: press }, label);
}

// --- Pictures ------------------------------------------------------------------------------------

/**
 * A matrix as a map: rows (queries) down, columns (keys) across, origin at the top.
 * `title` is its text alternative. Numbers stand in the cells where there is room.
 */
function heat(matrix, { title, rows = [], columns = [], low = 0, high = null, digits = 2, width = 320, pick = null }) {
  const [n, m] = [matrix.length, matrix[0]?.length ?? 0];
  const top = high ?? Math.max(low + 1e-12, ...matrix.flat().filter(Number.isFinite));
  const letters = (names) => Math.max(0, ...names.map((name) => String(name).length));
  const left = Math.min(110, 8 + 7.2 * letters(rows));
  const side = Math.max(6, Math.min(44, (width - left) / Math.max(m, 1)));
  const tilt = 7.2 * letters(columns) > side - 2;
  const head = columns.length ? (tilt ? Math.min(90, 12 + 7 * letters(columns)) : 20) : 2;
  const box = drawn('svg', { role: 'img', 'aria-label': title, class: 'attn-map', width: left + side * m + 2,
    height: head + side * n + 2, viewBox: `0 0 ${left + side * m + 2} ${head + side * n + 2}` });
  columns.forEach((name, j) => {
    const [x, y] = [left + side * (j + 0.5), head - 6];
    box.append(drawn('text', { x: tilt ? x + 4 : x, y, class: 'attn-tick', 'text-anchor': tilt ? 'start' : 'middle',
      transform: tilt ? `rotate(-90 ${x + 4} ${y})` : null }, String(name)));
  });
  matrix.forEach((row, i) => {
    if (rows.length) {
      box.append(drawn('text', { x: left - 6, y: head + side * (i + 0.5) + 4, class: 'attn-tick',
        'text-anchor': 'end' }, String(rows[i])));
    }
    row.forEach((value, j) => {
      const share = (value - low) / (top - low);
      const allowed = Number.isFinite(value);
      box.append(drawn('rect', { x: left + side * j, y: head + side * i, width: side - 1, height: side - 1,
        class: allowed ? null : 'attn-masked', fill: allowed ? shade(share) : null,
        onclick: pick && (() => pick(i, j)) },
      drawn('title', {}, `${rows[i] ?? i}, ${columns[j] ?? j}: ${allowed ? number(value, digits + 1) : 'masked'}`)));
      if (side >= 32 && allowed) {
        box.append(drawn('text', { x: left + side * (j + 0.5), y: head + side * (i + 0.5) + 4, class: 'attn-cell',
          fill: share < 0.55 ? '#fff' : '#000', 'text-anchor': 'middle' }, number(value, digits)));
      }
    });
  });
  return box;
}

/** What the colours of a map mean: the smallest and the largest number, `say` as it says them, with the shades between. */
function colourBar(low, high, width, say) {
  const count = 24;
  return element('span', { className: 'attn-bar' }, say(low),
    drawn('svg', { width, height: 12, 'aria-hidden': 'true' }, Array.from({ length: count }, (_, i) => drawn('rect',
      { x: i * width / count, y: 0, width: width / count + 1, height: 12, fill: shade(i / (count - 1)) }))),
    say(high));
}

function steps(low, high, log) {
  if (log) {
    const [a, b] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const every = Math.max(1, Math.ceil((b - a) / 6));
    const found = [];
    for (let k = a; k <= b; k += every) found.push(10 ** k);
    return found;
  }
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5, 10].find((k) => k * unit >= raw) ?? 10);
  const found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + step * 1e-9; x += step) found.push(Math.abs(x) < 1e-12 ? 0 : x);
  return found;
}

/**
 * Lines and points. `series`: `{ name, x, y, colour, dash, points, width, names, letter }`; `marks`: `{ x, y, text }`.
 * `points`: true (on the line), 'alone' or 'rings' (without it; `letter` stands in the ring); `names` are said by a pointer that rests on one.
 * A series without a name stands in no legend. `xTick` and `yTick` say a tick's value.
 */
function plot({ title, series, x, y, xLog = false, yLog = false, xRange = null, yRange = null, width = 560,
  height = 300, marks = [], xTick = null, yTick = null }) {
  const [left, right, top, bottom] = [58, 12, 10, 44];
  const finite = (values, log) => values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  const range = (given, values, log) => {
    if (given) return given;
    const found = finite(values, log);
    let [a, b] = [Math.min(...found), Math.max(...found)];
    if (!found.length) [a, b] = log ? [1, 10] : [0, 1];
    if (a === b) [a, b] = log ? [a / 2, b * 2] : [a - 0.5, b + 0.5];
    const room = log ? 0 : (b - a) * 0.05;
    return [a - room, b + room];
  };
  const [x0, x1] = range(xRange, series.flatMap((one) => one.x), xLog);
  const [y0, y1] = range(yRange, series.flatMap((one) => one.y), yLog);
  const place = (v, a, b, log) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
  const px = (v) => left + place(v, x0, x1, xLog) * (width - left - right);
  const py = (v) => height - bottom - place(v, y0, y1, yLog) * (height - top - bottom);
  const box = drawn('svg', { role: 'img', 'aria-label': title, class: 'attn-plot', width, height,
    viewBox: `0 0 ${width} ${height}` });
  const tick = (say, v, log) => (say ? say(v) : log && (v >= 1e5 || v < 0.001) ? `10${superscript(Math.round(Math.log10(v)))}`
    : number(v, Number.isInteger(v) ? 0 : Math.abs(v) < 0.1 ? 3 : 1));
  for (const v of steps(x0, x1, xLog)) {
    box.append(drawn('line', { x1: px(v), x2: px(v), y1: top, y2: height - bottom, class: 'attn-grid' }),
      drawn('text', { x: px(v), y: height - bottom + 16, class: 'attn-tick', 'text-anchor': 'middle' }, tick(xTick, v, xLog)));
  }
  for (const v of steps(y0, y1, yLog)) {
    box.append(drawn('line', { x1: left, x2: width - right, y1: py(v), y2: py(v), class: 'attn-grid' }),
      drawn('text', { x: left - 6, y: py(v) + 4, class: 'attn-tick', 'text-anchor': 'end' }, tick(yTick, v, yLog)));
  }
  box.append(drawn('text', { x: (left + width - right) / 2, y: height - 8, class: 'attn-axis', 'text-anchor': 'middle' }, x),
    drawn('text', { x: 14, y: (top + height - bottom) / 2, class: 'attn-axis', 'text-anchor': 'middle',
      transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, y));
  const inside = (v, a, b) => v >= Math.min(a, b) - 1e-12 && v <= Math.max(a, b) + 1e-12;
  series.forEach((one, k) => {
    const colour = one.colour ?? COLOURS[k % COLOURS.length];
    let path = '';
    let pen = 'M';
    one.x.forEach((v, i) => {
      const w = one.y[i];
      if (!Number.isFinite(w) || !inside(v, x0, x1) || !inside(w, y0, y1) || (yLog && w <= 0) || (xLog && v <= 0)) {
        pen = 'M';
        return;
      }
      path += `${pen}${px(v).toFixed(1)} ${py(w).toFixed(1)}`;
      pen = 'L';
      if (!one.points) return;
      const ring = one.points === 'rings';
      const look = ring ? { r: 9, class: 'attn-ring', stroke: colour } : { r: 3.5, fill: colour };
      box.append(drawn('circle', { cx: px(v), cy: py(w), ...look }, one.names ? drawn('title', {}, one.names[i]) : null));
      if (ring) box.append(drawn('text', { x: px(v), y: py(w) + 4, class: 'attn-note', 'text-anchor': 'middle' }, one.letter ?? ''));
    });
    if (path && !['alone', 'rings'].includes(one.points)) {
      box.append(drawn('path', { d: path, fill: 'none', stroke: colour, 'stroke-width': one.width ?? 2,
        'stroke-dasharray': one.dash ?? null }));
    }
  });
  for (const mark of marks) {
    if (!inside(mark.x, x0, x1) || !inside(mark.y, y0, y1)) continue;
    const late = px(mark.x) > width * 0.65;
    box.append(drawn('circle', { cx: px(mark.x), cy: py(mark.y), r: 5, class: 'attn-mark' }));
    if (mark.text) {
      box.append(drawn('text', { x: px(mark.x) + (late ? -9 : 9), y: py(mark.y) - 7, class: 'attn-note attn-halo',
        'text-anchor': late ? 'end' : 'start' }, mark.text));
    }
  }
  const named = series.map((one, k) => [one, k]).filter(([one]) => one.name);
  const legend = element('ul', { className: 'attn-legend', role: 'list' }, named.map(([one, k]) => {
    const key = drawn('svg', { width: 22, height: 10, 'aria-hidden': 'true' }, drawn('line', { x1: 1, x2: 21, y1: 5, y2: 5,
      stroke: one.colour ?? COLOURS[k % COLOURS.length], 'stroke-width': 3, 'stroke-dasharray': one.dash ?? null }));
    return element('li', {}, key, ' ', one.name);
  }));
  return element('div', { className: 'attn-chart' }, box, named.length > 1 ? legend : null);
}

function superscript(whole) {
  return String(whole).replace('-', '⁻').replace(/\d/g, (digit) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[digit]);
}

// --- Tables --------------------------------------------------------------------------------------

/** The numbers that a figure shows: `[{ name, columns, rows }]`, the first entry of a row names it. */
function tablesView(tables) {
  return tables.map(({ name, columns, rows }) => element('div', { className: 'attn-table', tabIndex: 0, role: 'group',
    ariaLabel: name }, element('table', { 'data-table': name },
    element('caption', {}, name),
    element('thead', {}, element('tr', {}, columns.map((text) => element('th', { scope: 'col' }, text)))),
    element('tbody', {}, rows.map((row) => element('tr', {}, row.map((value, i) => (i === 0
      ? element('th', { scope: 'row' }, number(value, 4))
      : element('td', typeof value === 'number' ? { 'data-value': value } : {}, number(value, 4))))))))));
}

// --- The frame -------------------------------------------------------------------------------------

/**
 * A figure from its parts, with the `render` that anywidget calls and the `tables` that tests compare.
 *
 * tables(data, settings): every number that the figure shows, as `tablesView` takes them.
 * build(ui): makes the controls (into `ui.controls`) and the pictures (into `ui.picture`), once, and returns
 *   update(settings, tables): draws. `ui.change({ name: value })` sets something and draws again;
 *   `ui.data` never changes; `ui.settings` are the present ones; `ui.width()` is the room for a picture in pixels.
 *   update may return a sentence that says what is seen now; it stands under the picture and is read out.
 */
function figure({ tables, build }) {
  function render({ model, el }) {
    const data = model.get('data');
    const about = model.get('about');
    const controls = element('div', { className: 'attn-controls', role: 'group', ariaLabel: 'Controls' });
    const picture = element('div', { className: 'attn-picture' });
    const finding = element('p', { className: 'attn-finding', role: 'status' });
    const numbers = element('div', {});
    const root = element('div', { className: 'attn', role: 'group', ariaLabel: about.title },
      element('p', { className: 'attn-title' }, about.title), controls, picture, finding,
      element('details', { className: 'attn-words' }, element('summary', {}, 'In words and numbers'),
        element('p', {}, about.text), numbers));
    root.addEventListener('keydown', (event) => { // in a notebook's command mode the plain keys are commands
      if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
    });
    el.replaceChildren(root);

    const width = () => Math.max(240, Math.min(720, picture.clientWidth || 560));
    const ui = { data, controls, picture, width, get settings() { return model.get('settings'); }, change };
    function change(patch) {
      model.set('settings', { ...model.get('settings'), ...patch });
      model.save_changes(); // the model then says that it changed, and `draw` hears it
    }
    let timer = 0;
    function draw() {
      const settings = model.get('settings');
      const found = tables(data, settings);
      const sentence = update(settings, found);
      numbers.replaceChildren(...tablesView(found));
      clearTimeout(timer); // a moving slider is not read out at every step
      if (!finding.textContent) finding.textContent = sentence ?? '';
      timer = setTimeout(() => { finding.textContent = sentence ?? ''; }, 150);
    }
    const update = build(ui);
    draw();
    let before = width();
    const watch = new ResizeObserver(() => {
      if (Math.abs(width() - before) > 8) {
        before = width();
        draw();
      }
    });
    watch.observe(picture);
    model.on('change:settings', draw);
    return () => { watch.disconnect(); clearTimeout(timer); model.off('change:settings', draw); };
  }
  return { render, tables };
}

export { COLOURS, button, choice, colourBar, drawn, element, field, figure, heat, number, plot, shade, slider, toggle };
