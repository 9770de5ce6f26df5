import { COLOURS, choice, drawn, element, figure, number, plot, slider, toggle } from './kit.js';

const KINDS = [['sinusoidal', 'Sinusoidal'], ['rotary', 'Rotary'], ['ALiBi', 'ALiBi']];
const LONGEST = 96; // offsets of the curve
const SHOWN = 8; // hands that get a dial

/** Radians that hand i turns at each step. */
const rate = (i, width) => 10000 ** (-2 * i / width);

/** The row of the sinusoidal table: sine and cosine of every hand. */
function encoding(position, width) {
  return Array.from({ length: width }, (_, j) => {
    const angle = position * rate(Math.floor(j / 2), width);
    return j % 2 ? Math.cos(angle) : Math.sin(angle);
  });
}

/** Every pair of neighbours turned by its hand's angle. */
function turned(x, position) {
  return x.map((value, j) => {
    const angle = position * rate(Math.floor(j / 2), x.length);
    return j % 2 ? value * Math.cos(angle) + x[j - 1] * Math.sin(angle) : value * Math.cos(angle) - x[j + 1] * Math.sin(angle);
  });
}

const dot = (a, b) => a.reduce((sum, value, j) => sum + value * b[j], 0);
const slope = (head, heads) => 2 ** (-8 * head / heads);

/** The score of a query at `position` with a key `offset` further on, both the same word. */
function score(data, { kind, width, position, word, head }, offset) {
  const x = data.word.slice(0, width).map((value) => (word ? value : 0));
  if (kind === 'sinusoidal') {
    const at = (p) => encoding(p, width).map((value, j) => value + x[j]);
    return dot(at(position), at(position + offset)) / Math.sqrt(width);
  }
  // A rotation needs something to turn: without the word, a hand of length 1 in every pair.
  const y = word ? x : x.map((_, j) => (j % 2 ? 0 : 1));
  if (kind === 'rotary') return dot(turned(y, position), turned(y, position + offset)) / Math.sqrt(width);
  return dot(x, x) / Math.sqrt(width) - slope(head, data.heads) * offset;
}

function tables(data, settings) {
  const { kind, width, position, offset } = settings;
  const first = { ...settings, position: 0 };
  const curve = Array.from({ length: LONGEST + 1 }, (_, k) => [k, score(data, settings, k), score(data, first, k)]);
  const hands = Array.from({ length: width / 2 }, (_, i) => [i, rate(i, width), 2 * Math.PI / rate(i, width),
    Math.cos(position * rate(i, width)), Math.cos((position + offset) * rate(i, width))]);
  const slopes = Array.from({ length: data.heads }, (_, i) => [i + 1, slope(i + 1, data.heads),
    -slope(i + 1, data.heads) * offset]);
  return [
    { name: 'Now', columns: ['query at', 'key at', 'score'], rows: [[position, position + offset, score(data, settings, offset)]] },
    kind === 'ALiBi'
      ? { name: 'Slopes', columns: ['head', 'slope', 'bias at this offset'], rows: slopes }
      : { name: 'Hands', columns: ['pair', 'radians a step', 'steps a turn', 'cosine at the query', 'cosine at the key'], rows: hands },
    { name: 'Score against offset', columns: ['offset', 'score', 'score, query at 0'], rows: curve },
  ];
}

function dial(i, width, position, offset) {
  const [wide, high, middle, centre] = [78, 86, 39, 35];
  const hand = (p, colour, length) => {
    const angle = p * rate(i, width);
    return drawn('line', { x1: middle, y1: centre, x2: middle + length * Math.cos(angle), y2: centre - length * Math.sin(angle),
      stroke: colour, 'stroke-width': 3, 'stroke-linecap': 'round' });
  };
  const round = 2 * Math.PI / rate(i, width);
  return drawn('svg', { role: 'img', width: wide, height: high, viewBox: `0 0 ${wide} ${high}`,
    'aria-label': `Hand ${i}: one turn in ${number(round, 1)} steps` },
  drawn('circle', { cx: middle, cy: centre, r: 32, fill: 'none', stroke: 'currentColor', 'stroke-opacity': 0.4 }),
  hand(position, COLOURS[0], 30), hand(position + offset, COLOURS[1], 22),
  drawn('text', { x: middle, y: high - 4, class: 'attn-tick', 'text-anchor': 'middle' }, `${number(round < 100 ? round : Math.round(round), 1)} steps`));
}

function build(ui) {
  const { settings, data, change } = ui;
  const kind = choice({ label: 'Positions by', options: KINDS, value: settings.kind, change: (value) => change({ kind: value }) });
  const width = slider({ label: 'Width', min: 4, max: data.word.length, step: 4, value: settings.width, change: (value) => change({ width: value }) });
  const position = slider({ label: 'Query at position', min: 0, max: 128, value: settings.position, change: (value) => change({ position: value }) });
  const offset = slider({ label: 'Key further on by', min: 0, max: LONGEST, value: settings.offset, change: (value) => change({ offset: value }) });
  const head = slider({ label: 'Head', min: 1, max: data.heads, value: settings.head, change: (value) => change({ head: value }) });
  const word = toggle({ label: 'Both are the same word', value: settings.word, change: (value) => change({ word: value }) });
  ui.controls.append(kind.node, width.node, position.node, offset.node, head.node, word.node);
  const dials = element('div', { className: 'attn-picture' });
  const key = element('p', { className: 'attn-panel-title' },
    'One hand for each pair of channels: long, blue: the query; short, orange: the key. Below it, the steps of one turn.');
  const curve = element('div', {});
  ui.picture.append(key, dials, curve);

  return (now, found) => {
    for (const [name, control] of Object.entries({ kind, width, position, offset, head, word })) control.set(now[name]);
    const linear = now.kind === 'ALiBi';
    head.node.hidden = !linear;
    key.hidden = linear;
    dials.replaceChildren(...(linear ? [] : Array.from({ length: Math.min(SHOWN, now.width / 2) },
      (_, i) => dial(i, now.width, now.position, now.offset))));
    const [x, y, first] = [0, 1, 2].map((column) => found[2].rows.map((row) => row[column]));
    const value = y[now.offset];
    const moved = y.some((score, k) => Math.abs(score - first[k]) > 1e-9);
    curve.replaceChildren(plot({
      title: `Score against offset, ${now.kind}: ${number(y[0], 2)} at offset 0, ${number(value, 2)} at ${now.offset}`,
      series: [...(moved ? [{ name: 'query at 0', x, y: first, colour: COLOURS[5], dash: '4 4' }] : []),
        { name: `query at ${now.position}`, x, y, colour: COLOURS[0] }],
      x: 'offset (key − query)', y: 'score', width: ui.width(), height: 240, xRange: [0, LONGEST],
      marks: [{ x: now.offset, y: value, text: number(value, 2) }],
    }));
    const at = `Query at ${now.position}, key at ${now.position + now.offset}: score ${number(value, 3)}.`;
    if (linear) return `${at} Head ${now.head} takes ${number(slope(now.head, data.heads), 4)} off for every step; where the query stands does not matter.`;
    if (now.kind === 'rotary') return `${at} Move the query: the curve stays. Only the offset counts.`;
    return now.word
      ? `${at} Move the query: the curve changes, because the word and its place are added and then multiplied out.`
      : `${at} Without a word the curve stays when the query moves: two hands agree by the angle between them, and that depends on the offset alone.`;
  };
}

export default figure({ tables, build });
