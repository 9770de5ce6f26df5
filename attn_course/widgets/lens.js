import { COLOURS, choice, colourBar, drawn, element, figure, number, shade, slider, toggle } from './kit.js';

const WHEN = ['before', 'after'];
const FINE = 1e7; // attention weights are rounded to this part of 1
const PICTURES = [['five', 'a 5 in clutter'], ['three', 'a 3 in clutter'], ['photograph', 'a photograph']];
const NETWORKS = { plain: 'plain CNN', se: 'squeeze-and-excitation', eca: 'efficient channel attention', cbam: 'CBAM',
  'self-attention': 'self-attention' };
const SHORT = { plain: 'plain', se: 'SE', eca: 'ECA', cbam: 'CBAM', 'self-attention': 'self-att.' };
const MAPS = { gate: 'spatial gate', place: 'attention of the marked place', received: 'attention received',
  features: 'size of the features' };
const SHORT_MAPS = { gate: 'gate', place: 'place', received: 'received', features: 'features' };

// --- The stored numbers ------------------------------------------------------------------------------------

const known = new WeakMap(); // what was decoded or worked out from a stored object

function once(stored, make) {
  if (!known.has(stored)) known.set(stored, make());
  return known.get(stored);
}

/** The whole numbers of a stored matrix, row by row. */
function levels(stored) {
  return once(stored, () => {
    const bytes = Uint8Array.from(atob(stored.levels), (letter) => letter.charCodeAt(0));
    if (stored.bits === 8) return Float64Array.from(bytes);
    return Float64Array.from({ length: bytes.length / 2 }, (_, i) => bytes[2 * i] + 256 * bytes[2 * i + 1]);
  });
}

/** A matrix, at another size if one is given. */
function values(stored, size = stored.size) {
  const table = enlarged(levels(stored), stored.size, size);
  return table.map((level) => stored.low + stored.step * level);
}

/** Bilinear, a pixel's value standing in its middle. */
function enlarged(table, [rows, columns], [height, width]) {
  if (rows === height && columns === width) return table;
  const along = (length, to) => Array.from({ length: to }, (_, i) => {
    const at = Math.max(0, (i + 0.5) * length / to - 0.5);
    const low = Math.floor(at);
    return [low, Math.min(low + 1, length - 1), at - low];
  });
  const [down, across] = [along(rows, height), along(columns, width)];
  const found = new Float64Array(height * width);
  down.forEach(([a, b, s], i) => across.forEach(([c, d, t], j) => {
    found[i * width + j] = (1 - s) * ((1 - t) * table[a * columns + c] + t * table[a * columns + d])
      + s * ((1 - t) * table[b * columns + c] + t * table[b * columns + d]);
  }));
  return found;
}

/** softmax(q kᵀ) of every place, in whole numbers of 1 / FINE. */
function attention(stored) {
  return once(stored, () => {
    const [query, key] = [values(stored.query), values(stored.key)];
    const [n, d] = stored.query.size;
    return Array.from({ length: n }, (_, i) => {
      const scores = Float64Array.from({ length: n }, (__, j) => {
        let sum = 0;
        for (let c = 0; c < d; c++) sum += query[i * d + c] * key[j * d + c];
        return sum;
      });
      const top = Math.max(...scores);
      const powers = scores.map((score) => Math.exp(score - top));
      const total = powers.reduce((a, b) => a + b);
      return powers.map((power) => Math.round(power / total * FINE));
    });
  });
}

// --- Maps and what is said of them ---------------------------------------------------------------------------

function mapsAt(network, stage) {
  if (network === 'cbam') return ['gate', 'features'];
  return network === 'self-attention' && stage === 3 ? ['received', 'features'] : ['features'];
}

/** Which map is shown: a module without the map that is wished for shows its features. */
function shownMap({ network, stage, map }) {
  const has = mapsAt(network, stage);
  const wish = map === 'own' ? (has.includes('gate') ? 'gate' : 'place') : map;
  return has.includes(wish) || (wish === 'place' && has.includes('received')) ? wish : 'features';
}

/** One map at the size of the picture. */
function mapOf(data, { picture, stage, row, column }, network, when, kind) {
  const stored = data.maps[picture][network][when];
  const { size } = data.pictures[picture].image;
  if (kind === 'gate' || kind === 'features') return values(stored[kind][stage - 1], size);
  const weights = attention(stored);
  const rows = size[0] / 4;
  if (kind === 'received') {
    const sums = weights[0].map((_, j) => weights.reduce((sum, one) => sum + one[j], 0));
    return enlarged(sums, [rows, rows], size).map((level) => level / (FINE * weights.length));
  }
  const place = Math.min(row, rows - 1) * rows + Math.min(column, rows - 1);
  return enlarged(weights[place], [rows, rows], size).map((level) => level / FINE);
}

const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
const least = (list) => list.reduce((a, b) => Math.min(a, b));
const largest = (list) => list.reduce((a, b) => Math.max(a, b));

function summary(map, width) {
  const at = map.indexOf(largest(map));
  return [least(map), mean(map), map[at], Math.floor(at / width), at % width];
}

/** Share of the mass, of the area, pointing game, and how often a pixel on the mask has more than one elsewhere. */
function judged(map, mask) {
  const on = map.filter((_, i) => mask[i]);
  const beside = map.filter((_, i) => !mask[i]).sort();
  const total = map.reduce((a, b) => a + b, 0);
  const top = largest(map);
  const below = (value, equal) => { // how many beside have less, or at most as much
    let [low, high] = [0, beside.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (beside[middle] < value || (equal && beside[middle] === value)) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const wins = on.reduce((sum, value) => sum + (below(value, false) + below(value, true)) / 2, 0);
  const tops = (list) => list.reduce((count, value) => count + (value === top), 0);
  return [total > 0 ? on.reduce((a, b) => a + b, 0) / total : 0, on.length / map.length, tops(on) / tops(map),
    wins / (on.length * beside.length)];
}

function maskOf(picture) {
  return [...picture.mask.join('')].map((pixel) => pixel === '1');
}

/** Gates of the channels, before and after, and the usual ones; null where there are none. */
function gatesOf(data, { picture, network, stage }) {
  const stored = data.maps[picture][network];
  if (!stored.after.gates) return null;
  return WHEN.map((when) => ({ own: stored[when].gates[stage - 1], usual: data.usual[network][when][stage - 1] }));
}

function tables(data, settings) {
  const { network, stage } = settings;
  const picture = data.pictures[settings.picture];
  const [height, width] = picture.image.size;
  const kind = shownMap(settings);
  const found = WHEN.map((when) => mapOf(data, settings, network, when, kind));
  const named = WHEN.map((when) => `${when} training`);
  const all = [{ name: 'The map', columns: [MAPS[kind], 'least', 'mean', 'largest', 'largest at row', 'at column'],
    rows: named.map((name, i) => [name, ...summary(found[i], width)]) }];
  if (picture.mask) {
    const mask = maskOf(picture);
    const maps = [[named[0], found[0]], [named[1], found[1]], ['centre prior', values(data.prior)],
      ['ink', values(picture.image)]];
    all.push({ name: 'On the digit', columns: ['map', 'share', 'chance', 'hit', 'above'],
      rows: maps.map(([name, map]) => [name, ...judged(map, mask)]) });
    all.push({ name: 'All maps here', columns: ['map', ...named.map((name) => `above, ${name}`)],
      rows: Object.keys(NETWORKS).flatMap((one) => mapsAt(one, stage).map((its) => [`${NETWORKS[one]}: ${MAPS[its]}`,
        ...WHEN.map((when) => judged(mapOf(data, settings, one, when, its), mask)[3])])) });
  }
  const about = data.networks[network];
  all.push({ name: 'The answer',
    columns: ['network', 'names', 'probability', 'accuracy, 1,000 scenes', 'with fixed attention', 'gamma'],
    rows: WHEN.map((when, i) => {
      const stored = data.maps[settings.picture][network][when];
      const recorded = i ? [about.accuracy, about.fixed] : [null, null];
      return [named[i], stored.answer, stored.probability, ...recorded, about.gamma === null ? null : i * about.gamma];
    }) });
  const gates = gatesOf(data, settings);
  if (gates) {
    all.push({ name: 'Channel gates', columns: ['gates', 'least', 'mean', 'largest', 'from the usual'],
      rows: gates.map(({ own, usual }, i) => [named[i], least(own), mean(own), largest(own),
        mean(own.map((gate, c) => Math.abs(gate - usual[c])))]) });
    all.push({ name: 'Gate of each channel', columns: ['channel', 'before', 'usual before', 'after', 'usual after'],
      rows: gates[0].own.map((gate, c) => [c, gate, gates[0].usual[c], gates[1].own[c], gates[1].usual[c]]) });
  }
  const side = height / 4;
  const part = (i, j) => mean(Array.from({ length: side * side }, (_, k) => found[Number(settings.trained)][
    (i * side + Math.floor(k / side)) * width + j * side + k % side]));
  all.push({ name: 'The map that is shown, in 4 × 4 parts',
    columns: ['part', 'left', 'middle left', 'middle right', 'right'],
    rows: ['top', 'upper middle', 'lower middle', 'bottom'].map((name, i) => [name,
      ...[0, 1, 2, 3].map((j) => part(i, j))]) });
  return all;
}

// --- Drawing ---------------------------------------------------------------------------------------------------

const percent = (share) => `${Math.round(100 * share)} %`;
const two = (value) => value.toFixed(2);
const digits = (value) => number(value, Math.abs(value) < 0.1 ? 3 : 2);

/** Which values get the darkest and the brightest colour. */
function scale(map, kind, stretch) {
  if (stretch) return [least(map), largest(map)];
  return [0, kind === 'gate' ? 1 : largest(map)];
}

/** The picture with a map over it; the pen that drew it, and how large a pixel is. */
function lay(canvas, image, map, [low, high], overlay) {
  const [height, width] = image.size;
  const pen = canvas.getContext('2d');
  const small = element('canvas', { width, height });
  const pixels = new ImageData(width, height);
  const grey = values(image);
  map.forEach((value, i) => {
    const colour = shade((value - low) / (high - low || 1)).match(/\d+/g).map(Number);
    for (const c of [0, 1, 2]) pixels.data[4 * i + c] = overlay * colour[c] + (1 - overlay) * 255 * grey[i];
    pixels.data[4 * i + 3] = 255;
  });
  small.getContext('2d').putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  return [pen, canvas.width / width];
}

/** That, with the digit's outline, the largest place and, if there is one, the marked cell. */
function paint(canvas, image, map, range, overlay, mask, cell) {
  const [height, width] = image.size;
  const [pen, big] = lay(canvas, image, map, range, overlay);
  const twice = (path, colour) => {
    for (const [style, thick] of [['#000', 6], [colour, 3]]) {
      [pen.strokeStyle, pen.lineWidth, pen.lineCap] = [style, thick, 'round'];
      pen.beginPath();
      path();
      pen.stroke();
    }
  };
  if (mask) {
    twice(() => mask.forEach((on, i) => {
      const [y, x] = [Math.floor(i / width), i % width];
      if (!on) return;
      const edges = [[x === 0 || !mask[i - 1], 0, 0, 0, 1], [x === width - 1 || !mask[i + 1], 1, 0, 1, 1],
        [y === 0 || !mask[i - width], 0, 0, 1, 0], [y === height - 1 || !mask[i + width], 0, 1, 1, 1]];
      for (const [edge, a, b, c, d] of edges) {
        if (!edge) continue;
        pen.moveTo((x + a) * big, (y + b) * big);
        pen.lineTo((x + c) * big, (y + d) * big);
      }
    }), '#fff');
  }
  const top = map.indexOf(largest(map));
  twice(() => pen.arc((top % width + 0.5) * big, (Math.floor(top / width) + 0.5) * big, 13, 0, 2 * Math.PI), '#fff');
  if (cell) {
    const side = 4 * big;
    twice(() => pen.rect(cell.column * side + 4, cell.row * side + 4, side - 8, side - 8), '#ff9a4d');
  }
}

/** Every map of the stage as two dots, with lines for the maps that know no network. */
function dots(rows, chosen, lines, width) {
  const [left, right, top, step] = [132, 22, 8, 25];
  const bottom = top + step * rows.length;
  const px = (share) => left + share * (width - left - right);
  const title = `How often a pixel on the digit has more than one elsewhere. ${rows.map(({ name, pair }) =>
    `${name}: ${percent(pair[0])} before, ${percent(pair[1])} after training`).join('; ')}; ${
    lines.map(({ name, at }) => `${name} ${percent(at)}`).join('; ')}.`;
  const box = drawn('svg', { role: 'img', 'aria-label': title, class: 'attn-plot', width, height: bottom + 42,
    viewBox: `0 0 ${width} ${bottom + 42}` });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    box.append(drawn('line', { x1: px(share), x2: px(share), y1: top, y2: bottom, class: 'attn-grid' }),
      drawn('text', { x: px(share), y: bottom + 16, class: 'attn-tick', 'text-anchor': 'middle' }, percent(share)));
  }
  box.append(drawn('text', { x: (left + width - right) / 2, y: bottom + 36, class: 'attn-axis',
    'text-anchor': 'middle' }, 'digit above elsewhere'));
  for (const { at, colour, dash } of lines) {
    box.append(drawn('line', { x1: px(at), x2: px(at), y1: top, y2: bottom, stroke: colour, 'stroke-width': 2,
      'stroke-dasharray': dash }));
  }
  rows.forEach(({ name, pair }, i) => {
    const y = top + step * (i + 0.5);
    const now = i === chosen;
    const colour = now ? COLOURS[1] : COLOURS[0];
    box.append(drawn('text', { x: left - 8, y: y + 4, 'text-anchor': 'end', class: 'attn-note',
      'font-weight': now ? 700 : null }, now ? `▸ ${name}` : name),
    drawn('line', { x1: px(pair[0]), x2: px(pair[1]), y1: y, y2: y, stroke: colour, 'stroke-width': 1.5 }),
    drawn('circle', { cx: px(pair[0]), cy: y, r: 4.5, class: 'attn-lens-hollow', stroke: colour }),
    drawn('circle', { cx: px(pair[1]), cy: y, r: 5.5, fill: colour }));
  });
  const key = (...shapes) => drawn('svg', { width: 22, height: 12, 'aria-hidden': 'true' }, ...shapes);
  const legend = [
    [key(drawn('circle', { cx: 11, cy: 6, r: 4.5, class: 'attn-lens-hollow', stroke: COLOURS[0] })), 'before training'],
    [key(drawn('circle', { cx: 11, cy: 6, r: 5.5, fill: COLOURS[0] })), 'after'],
    ...lines.map(({ name, at, colour, dash }) => [key(drawn('line', { x1: 1, x2: 21, y1: 6, y2: 6, stroke: colour,
      'stroke-width': 2, 'stroke-dasharray': dash })), `${name} ${percent(at)}`])];
  return element('div', {}, box, element('ul', { className: 'attn-legend', role: 'list' },
    legend.map(([shape, name]) => element('li', {}, shape, ' ', name))));
}

/** A bar for each channel, and a line at what is usual. */
function bars({ own, usual }, sort, title, width) {
  const [left, bottom, height] = [34, 96, 120];
  const order = own.map((_, c) => c);
  if (sort) order.sort((a, b) => own[b] - own[a] || a - b);
  const step = (width - left - 4) / own.length;
  const py = (gate) => bottom - gate * (bottom - 6);
  const box = drawn('svg', { role: 'img', 'aria-label': title, class: 'attn-plot', width, height,
    viewBox: `0 0 ${width} ${height}` });
  for (const gate of [0, 0.5, 1]) {
    box.append(drawn('line', { x1: left, x2: width - 4, y1: py(gate), y2: py(gate), class: 'attn-grid' }),
      drawn('text', { x: left - 6, y: py(gate) + 4, class: 'attn-tick', 'text-anchor': 'end' }, number(gate, 1)));
  }
  order.forEach((channel, i) => {
    const [x, wide] = [left + i * step, Math.max(2, step - 2)];
    const [top, line] = [py(own[channel]), py(usual[channel])];
    box.append(drawn('rect', { x, y: top, width: wide, height: Math.max(0.5, bottom - top), fill: COLOURS[0] },
      drawn('title', {}, `Channel ${channel}: ${two(own[channel])}, usually ${two(usual[channel])}`)),
    drawn('line', { x1: x - 0.5, x2: x + wide + 0.5, y1: line, y2: line, class: 'attn-mark' }));
  });
  box.append(drawn('text', { x: (left + width) / 2, y: height - 6, class: 'attn-tick', 'text-anchor': 'middle' },
    sort ? 'channels, the largest gate first' : 'channels in their order'));
  return box;
}

function sentence(data, now, kind, found) {
  const rows = (name) => found.find((one) => one.name === name)?.rows;
  const at = Number(now.trained);
  const words = [];
  if (kind === 'features' && now.map !== kind) {
    const why = { plain: 'The plain network has no module', 'self-attention': 'Self-attention stands at stage 3 alone' };
    words.push(`${why[now.network] ?? 'A gate for channels is the same at every place'}: shown is the size of the features.`);
  }
  if (rows('On the digit')) {
    const [before, after, prior, ink] = rows('On the digit').map((row) => percent(row[4]));
    words.push(`A pixel on the digit has more than one elsewhere in ${at ? after : before} of all pairs (${
      at ? `before training ${before}` : `after training ${after}`}). The centre prior, which has seen no picture, ` +
      `reaches ${prior}, the ink ${ink}.`);
  } else {
    words.push('Where a map should lie on a photograph, nobody knows: there is no digit to hold it against.');
  }
  const [, answer, probability] = rows('The answer')[at];
  const { label } = data.pictures[now.picture];
  const named = `The network names it ${answer} (probability ${number(Math.floor(1000 * probability) / 1000, 3)})`;
  if (!at) words.push(`${named}. Untrained, it names every picture alike.`);
  else if (label === null) words.push(`${named}: it knows digits and nothing else.`);
  else words.push(label === answer ? `${named}, rightly.` : `${named}. It is a ${label}, wherever the map lies.`);
  const { accuracy, fixed } = data.networks[now.network];
  if (at && fixed !== null) {
    words.push(`Is the module used? With its attention fixed, ${number(fixed, 3)} of the test scenes are right, ` +
      `with it ${number(accuracy, 3)}: ${accuracy - fixed > 0.1 ? 'yes' : 'hardly'}.`);
  }
  return words.join(' ');
}

function build(ui) {
  const { settings, data, change } = ui;
  const set = (name) => (value) => change({ [name]: value });
  const picture = choice({ label: 'Picture', options: PICTURES, value: settings.picture, change: set('picture') });
  // Self-attention stands at stage 3 alone: who chooses it wants to see it.
  const network = choice({ label: 'Network', options: Object.entries(NETWORKS), value: settings.network,
    change: (value) => change(value === 'self-attention' ? { network: value, stage: 3 } : { network: value }) });
  const map = choice({ label: 'Map', options: [['own', "the module's own"],
    ['received', 'attention that each place receives'], ['features', 'size of the features']], value: settings.map,
  change: set('map') });
  const stage = slider({ label: 'Stage', min: 1, max: 3, value: settings.stage, format: (x) => `${x} of 3`,
    change: set('stage') });
  const overlay = slider({ label: 'Overlay', min: 0, max: 100, step: 5, value: settings.overlay,
    format: (x) => `${x} %`, change: set('overlay') });
  const row = slider({ label: 'Marked row', min: 0, max: 7, value: settings.row, change: set('row') });
  const column = slider({ label: 'Marked column', min: 0, max: 7, value: settings.column, change: set('column') });
  const trained = toggle({ label: 'Trained', value: settings.trained, change: set('trained') });
  const stretch = toggle({ label: 'Stretch the colours', value: settings.stretch, change: set('stretch') });
  const sort = toggle({ label: 'Sort the gates', value: settings.sort, change: set('sort') });
  const order = [picture, stage, network, map, row, column, overlay, trained, stretch, sort];
  ui.controls.append(...order.map((one) => one.node));
  for (const one of [picture, stage, overlay, row, column]) one.node.style.flexBasis = '9rem'; // two fit on a phone
  const controls = { picture, network, map, stage, overlay, row, column, trained, stretch, sort };

  const canvas = element('canvas', { role: 'img', width: 576, height: 576, className: 'attn-lens-canvas' });
  const said = element('p', { className: 'attn-panel-title' });
  const bar = element('div', {});
  const marks = element('p', { className: 'attn-panel-title' });
  const left = element('div', { className: 'attn-lens-left' }, said, canvas, bar, marks);
  const right = element('div', {});
  const below = element('div', {});
  ui.picture.append(left, right, below);
  canvas.addEventListener('click', (event) => {
    if (shownMap(ui.settings) !== 'place') return;
    const box = canvas.getBoundingClientRect();
    const rows = data.pictures[ui.settings.picture].image.size[0] / 4;
    const cell = (offset, length) => Math.max(0, Math.min(rows - 1, Math.floor(offset / length * rows)));
    change({ row: cell(event.clientY - box.top, box.height), column: cell(event.clientX - box.left, box.width) });
  });

  return (now, found) => {
    const kind = shownMap(now);
    const shown = data.pictures[now.picture];
    const rows = shown.image.size[0] / 4;
    const here = { row: Math.min(now.row, rows - 1), column: Math.min(now.column, rows - 1) };
    for (const one of [row, column]) one.input.max = rows - 1;
    for (const [name, control] of Object.entries(controls)) control.set(here[name] ?? now[name]);
    for (const one of [row, column]) one.node.hidden = kind !== 'place';
    map.input.options[1].disabled = !mapsAt(now.network, now.stage).includes('received');

    const width = ui.width();
    const wide = width >= 600;
    const when = WHEN[Number(now.trained)];
    const values = mapOf(data, now, now.network, when, kind);
    const range = scale(values, kind, now.stretch);
    const side = Math.min(288, width);
    const mask = shown.mask && maskOf(shown);
    const name = `${NETWORKS[now.network]}, stage ${now.stage}, ${when} training: ${MAPS[kind]}`;
    canvas.style.width = `${side}px`;
    canvas.style.cursor = kind === 'place' ? 'crosshair' : 'default';
    left.style.width = `${side}px`;
    paint(canvas, shown.image, values, range, now.overlay / 100, mask, kind === 'place' ? here : null);
    const [, low, middle, high, y, x] = found[0].rows[Number(now.trained)];
    const [, share, chance] = found.find((one) => one.name === 'On the digit')?.rows[Number(now.trained)] ?? [];
    canvas.ariaLabel = [`Picture: ${PICTURES.find(([key]) => key === now.picture)[1]}.`, `Over it, from ${name}.`,
      `From ${digits(low)} to ${digits(high)}, mean ${digits(middle)}; the largest at row ${y}, column ${x} of`,
      `${shown.image.size.join(' × ')} pixels.`, mask ? `${percent(share)} of it lie on the digit, which takes ${
        percent(chance)} of the picture.` : ''].join(' ');
    said.textContent = name.charAt(0).toUpperCase() + name.slice(1);
    bar.replaceChildren(colourBar(...range, side - 120, digits));
    marks.textContent = `${mask ? "Outline: the digit's ink. " : ''}Circle: the largest value.${
      kind === 'place' ? ' Square: the marked place; tap another, or move the sliders.' : ''}`;

    const room = wide ? width - side - 24 : width;
    right.style.width = `${room}px`;
    if (mask) {
      const table = (title) => found.find((one) => one.name === title).rows;
      const list = Object.keys(NETWORKS).flatMap((one) => mapsAt(one, now.stage).map((its) => ({ network: one, its,
        name: `${SHORT[one]} ${SHORT_MAPS[its]}` })));
      list.forEach((one, i) => { one.pair = table('All maps here')[i].slice(1); });
      if (kind === 'place') {
        list.push({ network: now.network, its: kind, name: `${SHORT[now.network]} ${SHORT_MAPS[kind]}`,
          pair: table('On the digit').slice(0, 2).map((line) => line[4]) });
      }
      const chosen = list.findIndex((one) => one.network === now.network && one.its === kind);
      const lines = [{ name: 'chance', at: 0.5, colour: COLOURS[5], dash: '2 3' },
        { name: 'centre prior', at: table('On the digit')[2][4], colour: COLOURS[3], dash: '7 3' },
        { name: 'ink', at: table('On the digit')[3][4], colour: COLOURS[2], dash: null }];
      right.replaceChildren(element('p', { className: 'attn-panel-title' },
        `Every map of stage ${now.stage}: how often has a pixel on the digit more than one elsewhere?`),
      dots(list, chosen, lines, room));
    } else {
      const alone = element('canvas', { role: 'img', width: 576, height: 576, className: 'attn-lens-canvas',
        ariaLabel: 'The photograph without a map: the round flower of a dahlia, seen from the front' });
      alone.style.width = `${Math.min(192, room)}px`;
      lay(alone, shown.image, values, range, 0);
      right.replaceChildren(element('p', { className: 'attn-panel-title' }, `As the network gets it: grey, ${
        shown.image.size.join(' × ')} pixels. ${shown.about}.`), alone);
    }
    const gates = gatesOf(data, now);
    sort.node.hidden = !gates;
    below.hidden = !gates;
    if (gates) {
      const [, few, , many, off] = found.find((one) => one.name === 'Channel gates').rows[Number(now.trained)];
      const title = `The gates of the ${gates[0].own.length} channels ${when} training: ${two(few)} to ${two(many)}; ` +
        `on average ${number(off, 3)} from what is usual (line: the mean over ${data.usual_count} training scenes).`;
      below.replaceChildren(element('p', { className: 'attn-panel-title' }, title),
        bars(gates[Number(now.trained)], now.sort, title, width));
    }
    return sentence(data, now, kind, found);
  };
}

export default figure({ tables, build });
