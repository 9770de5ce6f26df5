import { button, choice, colourBar, drawn, element, field, figure, number, shade, slider } from './kit.js';

const LETTERS = { q: 'Queries q', k: 'Keys k', v: 'Values v' };
const LARGEST = 99; // of an edited number
const WIDTH = 4; // of the vectors of the reader's own words
const TEMPERATURES = [0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10];
const MASKS = [['none', 'none'], ['causal', 'causal'], ['padding', 'padding at the end'],
  ['front', 'causal, padding in front'], ['window', 'window']];
// Where the controls go when another source is chosen.
const START = { given: { query: 1, head: 0, mask: 'none' }, own: { query: 2, head: 0, mask: 'none' },
  trained: { query: 13, head: 2, mask: 'causal' } };

// --- From words to weights ---------------------------------------------------------------------------------

const wordsOf = (sentence) => sentence.split(' ').filter((word) => word);
const range = (n) => Array.from({ length: n }, (_, i) => i);
const sum = (values) => values.reduce((a, b) => a + b, 0);
const mean = (values) => (values.length ? sum(values) / values.length : null);
const dot = (a, b) => sum(a.map((x, i) => x * b[i]));

/** A channel of a word's vector, in tenths from -10 to 10: the hash FNV-1a of channel and letters, stirred once more. */
function tenths(word, channel) {
  let h = 2166136261;
  for (const code of [channel, ...Array.from(word, (letter) => letter.codePointAt(0))]) h = Math.imul(h ^ code, 16777619) >>> 0;
  for (const [shift, factor] of [[16, 0x85ebca6b], [13, 0xc2b2ae35]]) h = Math.imul(h ^ (h >>> shift), factor) >>> 0;
  return ((h ^ (h >>> 16)) >>> 0) % 21 - 10;
}

const unpacked = new WeakMap(); // stored layer -> its numbers

function stored(layer, n) {
  if (!unpacked.has(layer)) {
    unpacked.set(layer, Object.fromEntries(Object.keys(LETTERS).map((letter) => {
      const bytes = Uint8Array.from(atob(layer[letter]), (one) => one.charCodeAt(0));
      const view = new DataView(bytes.buffer);
      const width = bytes.length / 2 / n;
      return [letter, range(n).map((i) => range(width).map((j) => view.getInt16(2 * (i * width + j), true) / 1000))];
    })));
  }
  return unpacked.get(layer);
}

const snippetOf = (data, { snippet }) => data.snippets[Math.min(snippet, data.snippets.length - 1)];

/** The tokens' names, as tables and as pictures write them, and their queries, keys and values before any edit. */
function unedited(data, now) {
  if (now.source === 'trained') {
    const { text, layers } = snippetOf(data, now);
    const short = Array.from(text, (letter) => (letter === ' ' ? '·' : letter));
    return { words: short.map((letter, i) => `${i} ${letter}`), short,
      whole: stored(layers[Math.min(now.layer, layers.length) - 1], short.length) };
  }
  if (now.source === 'given') return { words: data.given.words, short: data.given.words, whole: data.given };
  const words = wordsOf(now.sentence);
  const x = words.map((word) => range(WIDTH).map((channel) => tenths(word.toLowerCase(), channel)));
  const times = (matrix) => x.map((row) => range(WIDTH).map((j) => sum(row.map((value, i) => value * Math.round(10 * matrix[i][j]))) / 100));
  return { words, short: words, x: x.map((row) => row.map((value) => value / 10)),
    whole: Object.fromEntries(Object.keys(LETTERS).map((letter) => [letter, times(data.matrices[letter])])) };
}

function vectors(data, now) {
  const found = unedited(data, now);
  if (now.source === 'trained' || !now.edits.length) return found;
  const whole = Object.fromEntries(Object.keys(LETTERS).map((letter) => [letter, found.whole[letter].map((row) => [...row])]));
  for (const [letter, row, channel, value] of now.edits) whole[letter][row][channel] = value;
  return { ...found, whole };
}

/** Whether query i may look at key j. */
function allowed(now, n, i, j) {
  const real = Math.min(now.real, n);
  return { none: true, causal: j <= i, padding: j < real, front: j <= i && j >= n - real,
    window: Math.abs(i - j) <= now.window }[now.mask];
}

/** Softmax among what is allowed; zeros where nothing is. */
function softmax(row) {
  const seen = row.filter((score) => score !== null);
  if (!seen.length) return row.map(() => 0);
  const top = Math.max(...seen);
  const powers = row.map((score) => (score === null ? 0 : Math.exp(score - top)));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

/** Every step of every head. */
function everyStep(data, now) {
  const { words, short, x, whole } = vectors(data, now);
  const [n, width] = [words.length, whole.q[0].length];
  const count = now.source === 'trained' ? 4 : Math.min(now.heads, width);
  const head = Math.min(now.head, count - 1);
  const query = Math.min(now.query, n - 1);
  const d = width / count;
  const heads = range(count).map((h) => {
    const [q, k, v] = ['q', 'k', 'v'].map((letter) => whole[letter].map((row) => row.slice(h * d, (h + 1) * d)));
    const products = q.map((row) => k.map((key) => dot(row, key)));
    const scores = products.map((row) => row.map((product) => product / Math.sqrt(d) / now.temperature));
    const masked = scores.map((row, i) => row.map((score, j) => (allowed(now, n, i, j) ? score : null)));
    const weights = masked.map(softmax);
    const output = weights.map((row) => range(d).map((c) => sum(row.map((weight, j) => weight * v[j][c]))));
    return { q, k, v, products, scores, masked, weights, output };
  });
  return { words, short, x, n, width, d, head, query, heads, ...heads[head] };
}

function habits(data, now, { heads, n }) {
  const seen = range(n).filter((i) => heads[0].masked[i].some((score) => score !== null));
  const columns = ['head', 'entropy (nats)', 'weight on itself', 'on the one before'];
  const rows = heads.map(({ weights }, h) => [`head ${h}`,
    mean(seen.map((i) => -sum(weights[i].map((w) => (w > 0 ? w * Math.log(w) : 0))))),
    mean(seen.map((i) => weights[i][i])), mean(seen.filter((i) => i > 0).map((i) => weights[i][i - 1]))]);
  if (now.source === 'trained') {
    const { brackets } = snippetOf(data, now);
    const inside = range(n).filter((i) => brackets[i] >= 0);
    columns.push('on the open bracket', 'bracket is top', 'queries in brackets');
    rows.forEach((row, h) => {
      const found = inside.map((i) => heads[h].weights[i][brackets[i]]);
      const top = inside.filter((i, k) => found[k] > 0 && found[k] === Math.max(...heads[h].weights[i]));
      row.push(mean(found), top.length, inside.length);
    });
  }
  return { name: 'Each head', columns, rows };
}

function tables(data, now) {
  const at = everyStep(data, now);
  const { words, n, d, query, head, width } = at;
  const channels = range(d).map((i) => `channel ${head * d + i}`);
  const matrix = (name, columns, values) => ({ name, columns: ['token', ...columns], rows: values.map((row, i) => [words[i], ...row]) });
  return [
    { name: `What ${words[query]} looks at`, columns: ['key', 'q · k', 'score', 'after the mask', 'weight'],
      rows: words.map((word, j) => [word, ...['products', 'scores', 'masked', 'weights'].map((step) => at[step][query][j])]) },
    { name: 'Shapes', columns: ['tensor', 'rows', 'columns'],
      rows: [['q', n, d], ['k', n, d], ['v', n, d], ['scores', n, n], ['weights', n, n], ['output', n, d],
        ['output of all heads', n, width]] },
    habits(data, now, at),
    ...(at.x ? [matrix('Word vectors x', range(WIDTH).map((i) => `channel ${i}`), at.x)] : []),
    ...Object.entries(LETTERS).map(([letter, title]) => matrix(`${title}, head ${head}`, channels, at[letter])),
    matrix('Scores', words, at.scores), matrix('After the mask', words, at.masked), matrix('Weights', words, at.weights),
    matrix('Output', channels, at.output),
  ];
}

// --- Pictures ----------------------------------------------------------------------------------------------

const inCell = (value, digits) => (Number.isInteger(value) ? String(value) : value.toFixed(digits)).replace(/^-(?=0\.0*$)/, '').replace('-', '−');
/** A share in words: near none and near all are not rounded to them. */
function percent(share) {
  if (share > 0 && share < 0.001) return '< 0.1 %';
  if (share > 0.999 && share < 1) return '> 99.9 %';
  return `${(100 * share).toFixed((share > 0 && share < 0.01) || (share > 0.99 && share < 1) ? 1 : 0)} %`;
}
const cut = (word, letters = 9) => (word.length > letters ? `${word.slice(0, letters - 1)}…` : word);

/** A line across each masked cell, so that it is told by more than its colour. */
const hatch = (cells) => drawn('path', { class: 'attn-micro-hatch', d: cells.map(([x, y, w, h]) => `M${x} ${y + h}l${w} ${-h}`).join('') });

const letters = (names) => Math.max(0, ...names.map((name) => name.length));
const indent = (rows) => 8 + Math.max(12, 7.2 * letters(rows)); // room for their names

/** A matrix, queries down, in cells of at most `most` pixels. `followed` is framed; a press on a row follows its query. */
function heatmap(matrix, { title, rows, columns = [], low, high, width, most = 46, followed, pick }) {
  const [n, m] = [matrix.length, matrix[0].length];
  const left = indent(rows);
  const side = Math.max(5, Math.min(most, (width - left - 3) / m));
  const tilt = 7.4 * letters(columns) > side;
  const top = columns.length ? (tilt ? 10 + 7.2 * letters(columns) : 20) : 3;
  const box = drawn('svg', { role: 'img', 'aria-label': title, class: 'attn-micro-map', width: left + side * m + 3,
    height: top + side * n + 3, viewBox: `0 0 ${left + side * m + 3} ${top + side * n + 3}` });
  columns.forEach((name, j) => {
    const [x, y] = [left + side * (j + 0.5), top - 6];
    box.append(drawn('text', { x: tilt ? x + 4 : x, y, class: 'attn-tick', 'text-anchor': tilt ? 'start' : 'middle',
      transform: tilt ? `rotate(-90 ${x + 4} ${y})` : null }, name));
  });
  const digits = side >= 38 ? 2 : side >= 27 ? 1 : 0;
  const cells = new Map(); // colour -> path of its cells: a path is quicker than a hundred rectangles
  const [hidden, numbers] = [[], []];
  matrix.forEach((row, i) => {
    if (side >= 9 || i % 2 === 0) {
      box.append(drawn('text', { x: left - 6, y: top + side * (i + 0.5) + 4, class: 'attn-tick', 'text-anchor': 'end' }, rows[i]));
    }
    row.forEach((value, j) => {
      const [x, y] = [left + side * j, top + side * i];
      const share = (value - low) / (high - low || 1);
      const colour = value === null ? 'masked' : digits ? shade(share) : shade(Math.round(48 * share) / 48);
      cells.set(colour, [cells.get(colour) ?? '', `M${x} ${y}h${side - 1}v${side - 1}h${1 - side}z`].join(''));
      if (value === null) hidden.push([x, y, side - 1, side - 1]);
      else if (digits) {
        numbers.push(drawn('text', { x: x + side / 2, y: y + side / 2 + 4, class: 'attn-cell', 'text-anchor': 'middle',
          fill: share < 0.47 ? '#fff' : '#000' }, inCell(value, digits)));
      }
    });
  });
  for (const [colour, d] of cells) {
    box.append(drawn('path', colour === 'masked' ? { d, class: 'attn-masked' } : { d, fill: colour }));
  }
  box.append(...numbers);
  if (hidden.length) box.append(hatch(hidden));
  box.append(drawn('rect', { x: left - 1, y: top + side * followed - 1, width: side * m + 1, height: side + 1, class: 'attn-mark' }));
  const at = (event) => [Math.floor((event.offsetY - top) / side), Math.floor((event.offsetX - left) / side)];
  box.addEventListener('click', (event) => {
    const [row] = at(event);
    if (row >= 0 && row < n) pick(row);
  });
  const read = element('span', { className: 'attn-micro-read', ariaHidden: 'true' }); // all of it stands in the tables too
  box.addEventListener('pointermove', (event) => {
    const [i, j] = at(event);
    const there = i >= 0 && i < n && j >= 0 && j < m;
    const column = columns[j] ? ` → ${columns[j]}` : `, ${j}`;
    read.textContent = there ? `${rows[i]}${column}: ${matrix[i][j] === null ? 'masked' : inCell(matrix[i][j], 3)}` : '';
  });
  box.addEventListener('pointerleave', () => { read.textContent = ''; });
  const key = element('div', { className: 'attn-micro-key' }, colourBar(low, high, 64, (x) => number(x, 1)), read);
  const whole = element('div', {}, box, key);
  whole.style.width = `${Math.max(148, left + side * m + 3)}px`; // whatever its title says
  return whole;
}

/** The weights of the followed query as bars over the sentence. A press on a word follows it. */
function bars({ short, words, weights, masked, query, n }, { width, pick }) {
  const step = Math.min(96, (width - 4) / n);
  const [high, top] = [80, 20];
  const row = weights[query];
  const best = Math.max(...row);
  const title = `${words[query]} looks at: ${row.map((w, j) => (masked[query][j] === null ? `${words[j]} masked` : `${words[j]} ${percent(w)}`)).join(', ')}`;
  const box = drawn('svg', { role: 'img', 'aria-label': title, class: 'attn-micro-map', width: step * n + 4, height: top + high + 30,
    viewBox: `0 0 ${step * n + 4} ${top + high + 30}` });
  const letters = Math.max(2, Math.floor(step / 8));
  const labels = []; // above every bar, also above the next one
  row.forEach((weight, j) => {
    const [x, tall] = [2 + step * j, Math.max(1, high * weight)];
    const room = [x + step * 0.12, top, step * 0.76, high];
    box.append(drawn('rect', { x: room[0], y: top, width: room[2], height: high, class: 'attn-masked' }));
    if (masked[query][j] === null) box.append(hatch([room]));
    else {
      box.append(drawn('rect', { x: room[0], y: top + high - tall, width: room[2], height: tall, class: 'attn-micro-bar' }));
      if (step >= 34 || weight === best) {
        const [first, last] = [step < 40 && j === 0, step < 40 && j === n - 1]; // narrow bars: no label hangs over the edge
        labels.push(drawn('text', { x: first ? x : last ? x + step : x + step / 2, y: top + high - tall - 5, class: 'attn-note attn-halo',
          'text-anchor': first ? 'start' : last ? 'end' : 'middle' }, percent(weight)));
      }
    }
    box.append(drawn('text', { x: x + step / 2, y: top + high + 19, class: 'attn-axis', 'text-anchor': 'middle' },
      n > 8 ? short[j] : cut(short[j], letters)));
  });
  box.append(...labels);
  box.append(drawn('rect', { x: 2 + step * query + 1, y: top + high + 3, width: step - 2, height: 24, class: 'attn-mark' }));
  box.addEventListener('click', (event) => pick(Math.max(0, Math.min(n - 1, Math.floor((event.offsetX - 2) / step)))));
  return box;
}

/** Queries, keys or values as numbers to edit; `set` puts other values into the same fields. */
function grid(letter, { words, d, head }, edit) {
  const inputs = words.map((word, i) => range(d).map((c) => element('input', { type: 'number', step: 0.1, min: -LARGEST, max: LARGEST,
    className: 'attn-entry', ariaLabel: `${letter} of ${word}, channel ${head * d + c}`,
    oninput: (event) => edit(letter, i, head * d + c, event.target), onblur: (event) => edit(letter, i, head * d + c, event.target, true) })));
  const node = element('table', { className: 'attn-micro-grid' },
    element('caption', {}, `${LETTERS[letter]}: ${words.length} × ${d}`),
    element('thead', {}, element('tr', {}, element('td'), range(d).map((c) => element('th', { scope: 'col' }, `channel ${head * d + c}`)))),
    element('tbody', {}, words.map((word, i) => element('tr', {}, element('th', { scope: 'row' }, cut(word)),
      inputs[i].map((input) => element('td', {}, input))))));
  const set = (values, edited) => inputs.forEach((row, i) => row.forEach((input, c) => {
    if (document.activeElement !== input) input.value = values[i][c];
    input.classList.toggle('attn-edited', edited(letter, i, head * d + c));
  }));
  return { node, set };
}

/** In words what is to be seen now. */
function sentence(now, at, found) {
  const { words, query, weights, masked, output, d, n, short, head } = at;
  const trained = now.source === 'trained';
  const name = (j) => (trained ? `“${short[j]}” at ${j}` : words.indexOf(words[j]) === words.lastIndexOf(words[j])
    ? `“${words[j]}”` : `“${words[j]}” at ${j}`);
  const row = weights[query];
  const seen = masked[query].filter((score) => score !== null).length;
  if (!seen) return `${name(query)} may look nowhere: every weight is 0, and what it receives is zeros.`;
  const best = Math.max(...row);
  const tops = range(n).filter((j) => row[j] > best - 1e-9);
  const most = tops.length === seen && seen > 1 ? `looks at all ${seen} keys alike, with ${percent(best)} each`
    : `looks most at ${tops.map(name).join(' and ')}, with ${percent(best)}${tops.length > 1 ? ' each' : ''}`;
  const heat = now.temperature === 1 ? '' : now.temperature > 1
    ? ` Temperature ${now.temperature} makes the scores smaller, and the weights more alike.`
    : ` Temperature ${now.temperature} makes the scores larger, and the choice sharper.`;
  const others = n - seen ? ` ${n - seen} of ${n} keys ${n - seen === 1 ? 'is' : 'are'} masked.` : '';
  if (!trained) {
    const receives = d > 1 ? `(${output[query].map((value) => inCell(value, 2)).join(', ')})` : inCell(output[query][0], 2);
    return `${name(query)} ${most}, and receives ${receives}.${others}${heat}`;
  }
  const [, entropy, , previous, , top, inside] = found[2].rows[head];
  const habit = inside ? `In this head the open round bracket is the top key of ${top} of the ${inside} queries inside round brackets.`
    : `There is no round bracket here; on average over the queries this head puts ${percent(previous ?? 0)} on the character before, with an entropy of ${number(entropy, 2)} nats.`;
  return `${name(query)} ${most}. ${habit}${heat}`;
}

// --- The figure --------------------------------------------------------------------------------------------

function build(ui) {
  const { settings, data, change } = ui;
  const nearest = (t) => TEMPERATURES.reduce((best, one, i) => (Math.abs(Math.log(one / t)) < Math.abs(Math.log(TEMPERATURES[best] / t)) ? i : best), 0);
  const setter = (name) => (value) => change({ [name]: value });
  const sources = [['given', `“${data.given.words.join(' ')}”`], ['own', 'my own words'],
    ...(data.snippets.length ? [['trained', 'the trained model']] : [])];
  const source = choice({ label: 'Look at', options: sources, value: settings.source,
    change: (value) => change({ source: value, edits: [], temperature: 1, ...START[value] }) });
  const problem = element('p', { className: 'attn-problem', role: 'alert' });
  const own = field({ label: `My own words (up to ${data.longest}), then Enter`, value: settings.sentence, maxLength: 90, change: (text) => {
    const words = wordsOf(text.replace(/\s+/g, ' '));
    const right = words.length >= 1 && words.length <= data.longest;
    problem.textContent = right ? '' : `Please type 1 to ${data.longest} words; these are ${words.length}. The picture still shows “${ui.settings.sentence}”.`;
    if (right) change({ sentence: words.join(' '), edits: [], query: Math.min(ui.settings.query, words.length - 1) });
  } });
  const snippet = choice({ label: 'Line of code', options: data.snippets.map(({ text }, i) => [i, text]), value: settings.snippet, change: setter('snippet') });
  const layer = choice({ label: 'Layer', options: [[1, 'layer 1'], [2, 'layer 2']], value: settings.layer, change: setter('layer') });
  const heads = choice({ label: 'Heads', options: [[1, '1'], [2, '2'], [4, '4']], value: settings.heads,
    change: (value) => change({ heads: value, head: Math.min(ui.settings.head, value - 1) }) });
  const head = choice({ label: 'Head shown', options: range(4).map((h) => [h, `head ${h}`]), value: settings.head, change: setter('head') });
  let names = [];
  const query = slider({ label: 'Follow the query of', min: 0, max: 31, value: settings.query, format: (i) => names[i] ?? '', change: setter('query') });
  const temperature = slider({ label: 'Temperature', min: 0, max: TEMPERATURES.length - 1, value: nearest(settings.temperature),
    format: (i) => String(TEMPERATURES[i]), change: (i) => change({ temperature: TEMPERATURES[i] }) });
  const mask = choice({ label: 'Mask', options: MASKS, value: settings.mask, change: setter('mask') });
  const real = slider({ label: 'Tokens that are no padding', min: 0, max: 31, value: settings.real, change: setter('real') });
  const reach = slider({ label: 'Window: reach on each side, w', min: 0, max: 31, value: settings.window, change: setter('window') });
  own.node.classList.add('attn-wide');
  for (const one of [layer, heads, head]) one.node.classList.add('attn-short');
  for (const one of [snippet, mask]) one.node.classList.add('attn-long');
  ui.controls.append(source.node, own.node, problem, snippet.node, layer.node, heads.node, head.node, query.node, temperature.node,
    mask.node, real.node, reach.node);

  const first = element('div', { className: 'attn-wide' });
  const vectorsTitle = element('p', { className: 'attn-panel-title attn-wide' });
  const inputs = element('div', { className: 'attn-picture' });
  const back = button('Undo my edits', () => change({ edits: [] }));
  const wrong = element('p', { className: 'attn-problem', role: 'alert' });
  const rest = element('div', { className: 'attn-picture' });
  ui.picture.append(first, vectorsTitle, inputs, back, wrong, rest);
  const panel = (title, shape, picture) => { // two lines always, so that maps side by side stand level
    picture.prepend(element('p', { className: 'attn-panel-title' }, title, element('br'), shape));
    return picture;
  };
  const size = (...matrices) => Math.max(1e-9, ...matrices.flat(2).filter((x) => x !== null).map(Math.abs));

  let base = null; // the numbers before any edit
  const isEdited = (letter, i, c) => ui.settings.edits.some((one) => one[0] === letter && one[1] === i && one[2] === c);
  function edit(letter, i, c, input, done = false) {
    const value = input.valueAsNumber;
    const right = Number.isFinite(value) && Math.abs(value) <= LARGEST;
    wrong.textContent = right || done || !input.value ? ''
      : `A number from −${LARGEST} to ${LARGEST}, please: ${input.value} is not used.`;
    if (done) { // leaving a field that holds no number puts the old one back
      if (!right) input.value = vectors(data, ui.settings).whole[letter][i][c];
      return;
    }
    if (!right) return;
    const others = ui.settings.edits.filter((one) => !(one[0] === letter && one[1] === i && one[2] === c));
    change({ edits: value === base[letter][i][c] ? others : [...others, [letter, i, c, value]] });
  }

  let built = '';
  let grids = [];
  function show(now, at) {
    const { words, short, d, n, head: h, query: followed } = at;
    const trained = now.source === 'trained';
    const room = ui.width();
    const key = JSON.stringify([now.source, words, d, h]);
    if (trained) {
      const all = JSON.stringify([key, now.snippet, now.layer, followed, room]);
      if (built !== all) {
        const third = room > 560 ? room / 3 - 10 : room / 2 - 10;
        inputs.replaceChildren(...Object.keys(LETTERS).map((letter) => {
          const top = size(at[letter]);
          return panel(LETTERS[letter], `${n} × ${d}`, heatmap(at[letter], { title: `${LETTERS[letter]}, ${n} by ${d}, from ${number(-top, 1)} to ${number(top, 1)}`,
            rows: short, low: -top, high: top, width: Math.max(148, third), followed, pick: setter('query') }));
        }));
      }
      built = all;
      return;
    }
    if (built !== key) {
      grids = Object.keys(LETTERS).map((letter) => [letter, grid(letter, at, edit)]);
      inputs.replaceChildren(...grids.map(([, one]) => one.node));
      built = key;
    }
    for (const [letter, one] of grids) one.set(at[letter], isEdited);
  }

  return (now, found) => {
    const at = everyStep(data, now);
    const { words, short, d, n, head: h, query: followed, width } = at;
    const trained = now.source === 'trained';
    names = trained ? words.map((_, i) => `“${short[i]}” at ${i}`) : words;
    base = unedited(data, now).whole;
    query.input.max = n - 1;
    real.input.max = reach.input.max = n - 1;
    real.input.max = n;
    Array.from(head.input.options).forEach((option, i) => { option.hidden = option.disabled = i >= at.heads.length; });
    Array.from(heads.input.options).forEach((option) => { option.hidden = option.disabled = Number(option.value) > width; });
    for (const [name, control] of Object.entries({ source, snippet, layer, mask, real, query, own, heads, head, temperature })) {
      control.set({ own: now.sentence, heads: Math.min(now.heads, width), head: h, query: followed, real: Math.min(now.real, n),
        temperature: nearest(now.temperature) }[name] ?? now[name]);
    }
    reach.set(Math.min(now.window, n - 1));
    own.node.hidden = now.source !== 'own';
    if (own.node.hidden) problem.textContent = '';
    snippet.node.hidden = layer.node.hidden = !trained;
    heads.node.hidden = trained;
    head.node.hidden = at.heads.length === 1;
    real.node.hidden = !['padding', 'front'].includes(now.mask);
    reach.node.hidden = now.mask !== 'window';
    back.hidden = trained || !now.edits.length;

    const pick = setter('query');
    const room = ui.width();
    first.replaceChildren(element('p', { className: 'attn-panel-title' }, 'Weights of ', element('strong', {}, names[followed]),
      `: where it looks${at.heads.length > 1 ? `, in head ${h}` : ''}. Press another to follow it.`), bars(at, { width: room, pick }));
    vectorsTitle.textContent = trained
      ? `1. What layer ${Math.min(now.layer, 2)} makes of each character, for head ${h} (stored from the trained model, which is causal; other masks and temperatures are a what-if)`
      : `1. Every word's query, key and value${at.heads.length > 1 ? `: the share of head ${h}` : ''}. Change any number.${now.source === 'own'
        ? ' They come from the letters by a fixed rule: equal words get equal numbers, and nothing is learned.' : ''}`;
    show(now, at);

    const labels = short.map((word) => cut(word));
    const wide = n > 8 ? (room > 560 ? room / 2 - 8 : room) : n <= 3 && room > 560 ? room / 4 - 10 : Math.min(room, 420);
    const most = n > 8 ? 46 : Math.min(46, (wide - indent(labels) - 3) / n); // of the output too: its rows stand level
    const shared = { rows: labels, followed, pick, width: wide, most };
    const top = size(at.scores);
    const root = ['√d', element('sub', {}, 'k')];
    const scale = now.temperature === 1 ? root : ['(', ...root, ` · ${now.temperature})`];
    const step = now.mask === 'none' ? 3 : 4;
    const square = `${n} × ${n}`;
    const best = Math.max(...at.weights[followed]);
    const seen = at.masked.flat().filter((score) => score !== null).length;
    const largest = size(at.output, at.v);
    const panels = [
      panel('2. Scores', ['q kᵀ / ', ...scale, `: ${square}`], heatmap(at.scores, { ...shared, columns: labels, low: -top, high: top,
        title: `Scores, ${n} by ${n}, queries down, keys across, from ${number(Math.min(...at.scores.flat()), 2)} to ${number(Math.max(...at.scores.flat()), 2)}` })),
      now.mask === 'none' ? null : panel('3. After the mask', `the rest is −∞: ${square}`, heatmap(at.masked, { ...shared, columns: labels, low: -top, high: top,
        title: `Scores after the mask: ${seen} of ${n * n} are allowed, the others struck out` })),
      panel(`${step}. Weights`, `softmax of each row: ${square}`, heatmap(at.weights.map((row, i) => row.map((w, j) => (at.masked[i][j] === null ? null : w))),
        { ...shared, columns: labels, low: 0, high: 1,
          title: `Weights, ${n} by ${n}, each row adds up to 1; the largest of ${words[followed]} is ${number(best, 2)}` })),
      panel(`${step + 1}. Output`, `weights · v: ${n} × ${d}`, heatmap(at.output, { ...shared, width: n > 8 ? wide * 0.7 : wide,
        columns: d <= 4 ? range(d).map((c) => `${h * d + c}`) : [], low: -largest, high: largest,
        title: `Output, ${n} by ${d}; ${words[followed]} receives ${at.output[followed].slice(0, 4).map((x) => number(x, 2)).join(', ')}${d > 4 ? ' and so on' : ''}` })),
    ];
    rest.replaceChildren(...panels.filter(Boolean));
    return sentence(now, at, found);
  };
}

export default figure({ tables, build });
