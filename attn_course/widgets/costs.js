import { choice, drawn, element, figure, number, plot, slider, toggle } from './kit.js';

const PALETTE = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#7a7a7a'];
const DASHES = [null, '12 4', '6 3', '12 3 3 3', '3 3'];
const GREY = '#7a7a7a';
const SIZE = { tokens: 'length', maps: 'side' };
const STORED = ['flops', 'flops training', 'elementwise', 'parameters', 'moved', 'moved training', 'peak', 'peak training'];
const MIB = 2 ** 20;
const QUANTITIES = [['flops', 'FLOPs'], ['elementwise', 'Elementwise operations, forward'], ['parameters', 'Parameters'],
  ['peak', 'Peak memory'], ['moved', 'Bytes moved'], ['intensity', 'FLOPs per byte'], ['time', 'Least time on a machine']];

// --- Numbers -------------------------------------------------------------------------------------

const read = new Map();

/** The numbers of a text, read once. */
function numbers(text) {
  if (!read.has(text)) read.set(text, text.split(' ').map(Number));
  return read.get(text);
}

/** All quantities of a line at the size with index i, in the units of the page. */
function costAt(data, line, i, now) {
  const columns = line.costs[line.needs.map((need) => now[need]).join(',')];
  const stored = (name) => {
    const column = columns[STORED.indexOf(name)];
    return typeof column === 'string' ? numbers(column)[i] : column;
  };
  const mode = now.training ? ' training' : '';
  const [flops, moved, peak] = ['flops', 'moved', 'peak'].map((name) => stored(`${name}${mode}`));
  return {
    flops,
    elementwise: stored('elementwise'),
    parameters: stored('parameters'),
    peak: peak === null ? null : peak / MIB,
    moved: moved / MIB,
    intensity: flops / moved,
    time: bound(data.machines[now.machine], flops, moved) * 1e3,
  };
}

/** The roofline: neither arithmetic nor memory can be outrun. */
const bound = (machine, flops, moved) => Math.max(flops / machine.peak, moved / machine.bandwidth);

/** Where two lines cross that are straight between their points, on logarithmic axes: [size, height]. */
function crossings(sizes, a, b) {
  const found = [];
  let before = null; // the last place where they lay apart, and by how much
  sizes.forEach((size, i) => {
    if (!a[i] || !b[i]) {
      before = null;
      return;
    }
    const apart = Math.log(a[i]) - Math.log(b[i]);
    if (Math.abs(apart) < 1e-6) return;
    if (before && apart * before[1] < 0) {
      const [j, was] = before;
      const share = i === j + 1 ? was / (was - apart) : 1; // points between are common: they meet in the first
      found.push([sizes[j] * (sizes[j + 1] / sizes[j]) ** share, a[j] * (a[j + 1] / a[j]) ** share]);
    }
    before = [i, apart];
  });
  return found;
}

/** What the figure shows of its data: sizes, lines that are on with their curves, rows, crossings. */
function seen(data, now) {
  const { sizes, lines } = data.families[now.family];
  const axis = SIZE[now.family];
  const here = sizes.indexOf(now[axis]);
  const drawnLines = lines.map((line, k) => ({ line, colour: PALETTE[k % PALETTE.length], dash: DASHES[k % DASHES.length],
    letter: String.fromCharCode(65 + k) })).filter(({ line }) => now.on.includes(line.name));
  const curves = drawnLines.map(({ line }) => sizes.map((_, i) => costAt(data, line, i, now)[now.quantity]));
  const crossed = [];
  curves.forEach((a, j) => curves.slice(j + 1).forEach((b, k) => {
    for (const place of crossings(sizes, a, b)) crossed.push([j, j + 1 + k, ...place]);
  }));
  const rows = data.machines[now.machine].rows.filter((row) => row.training === now.training);
  return { sizes, lines, axis, here, drawnLines, curves, crossed, rows };
}

/** The measured rows that lie on a line that is on, at these settings. */
function onLines({ rows, drawnLines }, now) {
  return rows.map((row) => ({ row, one: drawnLines.find(({ line }) => line.name === row.line) }))
    .filter(({ row, one }) => one && row.at && one.line.needs.every((need) => row.at[need] === now[need]));
}

function median(values) {
  const sorted = [...values].sort((x, y) => x - y);
  const half = Math.floor(sorted.length / 2);
  if (!sorted.length) return null;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function tables(data, now) {
  const all = seen(data, now);
  const atCursor = { name: 'At the chosen size', columns: ['mechanism', ...data.quantities.map((quantity) => data.units[quantity])],
    rows: all.lines.map((line) => {
      const found = costAt(data, line, all.here, now);
      return [line.name, ...data.quantities.map((quantity) => found[quantity])];
    }) };
  if (now.view === 'costs') {
    const name = (k) => all.drawnLines[k].line.name;
    return [atCursor,
      { name: 'Crossovers, about', columns: ['lines', all.axis, data.units[now.quantity]],
        rows: all.crossed.map(([j, k, size, value]) => [`${name(j)} and ${name(k)}`, size, value]) },
      { name: 'Measured at these settings', columns: ['row', all.axis, 'peak, MiB', 'time, ms'],
        rows: onLines(all, now).map(({ row }) => [row.case, row.at.size, row.peak === null ? null : row.peak / MIB,
          row.seconds * 1e3]) }];
  }
  const machine = data.machines[now.machine];
  const bounds = all.rows.map((row) => {
    const least = bound(machine, row.flops, row.moved);
    return [row.case, row.flops / row.moved, row.flops / row.seconds / 1e9, least * 1e3, row.seconds * 1e3, row.seconds / least];
  });
  const times = bounds.map((row) => row[5]);
  return [atCursor,
    { name: 'The machine', columns: ['machine', 'GFLOP/s', 'GB/s', 'corner, FLOPs per byte', 'rows', 'median measured / bound', 'below the bound'],
      rows: [[now.machine, machine.peak / 1e9, machine.bandwidth / 1e9, machine.peak / machine.bandwidth, times.length,
        median(times), times.filter((ratio) => ratio < 1).length]] },
    { name: 'Predicted and measured', columns: ['row', 'FLOPs per byte', 'GFLOP/s', 'bound, ms', 'measured, ms', 'measured / bound'],
      rows: bounds }];
}

// --- Words -----------------------------------------------------------------------------------------

function amount(quantity, value) {
  if (quantity === 'peak' || quantity === 'moved') return `${digits(value)} MiB`;
  if (quantity === 'time') return `${digits(value)} ms`;
  if (quantity === 'intensity') return `${digits(value)} FLOPs per byte`;
  const [divisor, word] = [[1e12, ' trillion'], [1e9, ' billion'], [1e6, ' million'], [1, '']].find(([least]) => value >= least) ?? [1, ''];
  const unit = { flops: 'FLOPs', elementwise: 'operations', parameters: 'parameters' }[quantity];
  return `${word ? digits(value / divisor) : number(value)}${word} ${unit}`;
}

/** Three digits that count. */
const digits = (value) => (value >= 1000 ? number(Math.round(value)) : String(Number(value.toPrecision(3))));
const places = (family, size) => (family === 'tokens' ? `${number(Math.round(size))} tokens` : `${number(Math.round(size))} × ${number(Math.round(size))}`);

function saysCosts(all, now) {
  const found = all.drawnLines.map(({ line }, k) => [line.name, all.curves[k][all.here]])
    .filter(([, value]) => value > 0).sort((a, b) => a[1] - b[1]);
  const here = all.sizes[all.here];
  const where = places(now.family, here);
  if (!found.length) return `At ${where}: nothing to draw. Switch on a line that has this quantity.`;
  const [least, most] = [found[0], found[found.length - 1]];
  let text = `At ${where} the lowest is “${least[0]}” with ${amount(now.quantity, least[1])}`;
  const times = digits(most[1] / least[1]);
  text += found.length > 1 ? `; “${most[0]}” has ${times === '1' ? 'as much' : `${times} times as much`}.` : '.';
  const none = all.drawnLines.filter((_, k) => !(all.curves[k][all.here] > 0)).map(({ line }) => `“${line.name}”`);
  if (none.length) text += ` ${now.quantity === 'peak' ? 'Parts have no peak of their own' : 'None of it'}: ${none.join(', ')}.`;
  if (now.quantity === 'intensity') text += ' Low means that memory binds, not that it is cheap.';
  const near = nearest(all);
  if (!near) return `${text} No two lines cross between ${number(all.sizes[0])} and ${places(now.family, all.sizes[all.sizes.length - 1])}.`;
  const [a, b] = [all.drawnLines[near[0]].line.name, all.drawnLines[near[1]].line.name];
  return `${text} Nearest crossover: “${a}” and “${b}” at about ${places(now.family, near[2])}.`;
}

function nearest(all) {
  const far = ([, , size]) => Math.abs(Math.log(size / all.sizes[all.here]));
  return [...all.crossed].sort((a, b) => far(a) - far(b))[0];
}

function saysRoof(all, now, found) {
  const [name, , , corner, rows, middle, below] = found[1].rows[0];
  const text = `On ${name} memory binds below ${digits(corner)} FLOPs per byte, arithmetic above.`;
  const row = found[2].rows.find(([label]) => label === now.row);
  if (row) return `${text} This row takes ${digits(row[4])} ms; its bound is ${digits(row[3])} ms: ${digits(row[5])} times the bound.`;
  const points = cursorPoints(found, all);
  const bound = points.filter(([, intensity]) => intensity >= corner).map(([line]) => `“${line}”`);
  return `${text} ${rows ? `Of ${rows} measured rows the median takes ${digits(middle)} times its bound (below the bound: ${below}).` : 'No row was measured.'} `
    + `At ${places(now.family, all.sizes[all.here])}, bound by arithmetic: ${bound.join(', ') || 'none of these lines'}.`;
}

/** The lines that are on at the cursor: name, FLOPs per byte. Those without FLOPs have no place there. */
function cursorPoints(found, all) {
  return all.drawnLines.map((one) => {
    const row = found[0].rows.find(([label]) => label === one.line.name);
    return [one.line.name, row[6], one];
  }).filter(([, intensity]) => intensity > 0);
}

const plainly = (v) => (v < 1 ? String(Number(v.toPrecision(1))) : number(v));

// --- Pictures ----------------------------------------------------------------------------------------

function decades(values) {
  const found = values.filter((value) => value > 0);
  if (!found.length) return [1, 10];
  const [low, high] = [Math.min(...found), Math.max(...found)].map(Math.log10);
  return [10 ** Math.floor(low + 1e-9), 10 ** Math.max(Math.ceil(high - 1e-9), Math.floor(low + 1e-9) + 1)];
}

function costsPicture(all, now, data, width) {
  const yRange = decades([...all.curves.flat(), ...['time', 'peak'].includes(now.quantity)
    ? onLines(all, now).map(({ row }) => (now.quantity === 'time' ? row.seconds * 1e3 : (row.peak ?? 0) / MIB)) : []]);
  const series = [{ x: [all.sizes[all.here], all.sizes[all.here]], y: yRange, colour: GREY, dash: '2 3', width: 1.5 }];
  all.drawnLines.forEach(({ line, colour, dash }, k) => series.push({ name: line.name, x: all.sizes,
    y: all.curves[k].map((value) => value || NaN), colour, dash, width: Math.max(1.8, 5 - 0.8 * k) })); // so that both are seen where they coincide
  if (['time', 'peak'].includes(now.quantity)) {
    for (const { row, one } of onLines(all, now)) {
      series.push({ x: [row.at.size], y: [now.quantity === 'time' ? row.seconds * 1e3 : row.peak === null ? NaN : row.peak / MIB],
        colour: one.colour, points: 'alone', names: [`measured: ${row.case}`] });
    }
  }
  const near = nearest(all);
  const named = (mark) => all.crossed.length < 3 || mark === near;
  const on = all.drawnLines.map(({ line }, k) => (all.curves[k][all.here] > 0 ? `${line.name} ${amount(now.quantity, all.curves[k][all.here])}` : null));
  return plot({
    title: `${data.units[now.quantity]} of ${all.drawnLines.length} mechanisms. At ${places(now.family, all.sizes[all.here])}: ${on.filter(Boolean).join('; ') || 'nothing'}`,
    series, xLog: true, yLog: true, xRange: [all.sizes[0], all.sizes[all.sizes.length - 1]], yRange,
    x: now.family === 'tokens' ? 'length of the sequence, n' : 'side of the map, H = W', y: data.units[now.quantity], width, height: 320,
    marks: all.crossed.map((mark) => ({ x: mark[2], y: mark[3], text: named(mark) ? number(Math.round(mark[2])) : null })),
  });
}

function roofPicture(all, now, data, found, width) {
  const machine = data.machines[now.machine];
  const corner = machine.peak / machine.bandwidth;
  const roof = (intensity) => Math.min(machine.peak, machine.bandwidth * intensity) / 1e9;
  const points = cursorPoints(found, all);
  const rows = found[2].rows;
  const xRange = decades([corner, ...rows.map((row) => row[1]), ...points.map(([, x]) => x)]);
  const yRange = decades([roof(corner), ...rows.map((row) => row[2]), ...points.map(([, x]) => roof(x)), roof(xRange[0])]);
  const colourOf = (k) => all.drawnLines.find(({ line }) => line.name === all.rows[k].line)?.colour;
  const dots = rows.map((row, k) => ({ x: [row[1]], y: [row[2]], colour: colourOf(k) ?? GREY, points: 'alone',
    names: [`measured: ${row[0]}`] }));
  const series = [
    { x: [corner, corner], y: yRange, colour: GREY, dash: '2 3', width: 1.5 },
    { x: [xRange[0], corner, xRange[1]], y: [xRange[0], corner, xRange[1]].map(roof), colour: GREY, width: 2.5 },
    ...dots.filter((_, k) => !colourOf(k)), ...dots.filter((_, k) => colourOf(k)),
    ...points.map(([name, x, { colour, letter }]) => ({ name: `${letter}: ${name}`, x: [x], y: [roof(x)], colour, letter, points: 'rings',
      names: [`at best: ${name}`] })),
  ];
  const picked = rows.find(([label]) => label === now.row);
  return plot({
    title: `Roofline of ${now.machine}: ${number(machine.peak / 1e9, 0)} GFLOP/s, ${number(machine.bandwidth / 1e9, 0)} GB/s, `
      + `${rows.length} measured rows; at best, at ${places(now.family, all.sizes[all.here])}: `
      + (points.map(([name, x]) => `${name} ${digits(roof(x))} GFLOP/s`).join('; ') || 'nothing'),
    series, xLog: true, yLog: true, xRange, yRange, x: 'FLOPs per byte', y: 'GFLOP/s', width, height: 320,
    xTick: (v) => (v < xRange[1] ? plainly(v) : ''), yTick: plainly,
    marks: picked ? [{ x: picked[1], y: picked[2], text: `${digits(picked[5])} × its bound` }] : [],
  });
}

// --- Controls -----------------------------------------------------------------------------------------

function build(ui) {
  const { data, settings, change } = ui;
  const { options } = data;
  const pick = (name, label, entries = options[name].map((value) => [value, number(value)])) => choice({ label, options: entries,
    value: settings[name], change: (value) => change({ [name]: value }) });
  const size = (name, label, family) => slider({ label, min: 0, max: options[name].length - 1,
    value: options[name].indexOf(settings[name]), format: (i) => places(family, options[name][i]),
    change: (i) => change({ [name]: options[name][i] }) });
  const controls = {
    view: pick('view', 'Show', [['costs', 'Costs over size'], ['roofline', 'Roofline']]),
    family: pick('family', 'Mechanisms over', [['tokens', 'Tokens'], ['maps', 'Feature maps']]),
    quantity: pick('quantity', 'Quantity', QUANTITIES),
    machine: pick('machine', 'Machine', Object.keys(data.machines).map((name) => [name, name])),
    length: size('length', 'Length', 'tokens'),
    side: size('side', 'Side', 'maps'),
    width: pick('width', 'Width (d_model)'),
    heads: pick('heads', 'Heads (h)'),
    sequences: pick('sequences', 'Sequences (B)'),
    channels: pick('channels', 'Channels (C)'),
    images: pick('images', 'Images (B)'),
    training: toggle({ label: 'Training: with the backward pass', value: settings.training, change: (training) => change({ training }) }),
  };
  const { view, family, quantity, machine, length, side, width, channels, ...others } = controls;
  const first = [view, family, quantity, machine, width, channels];
  for (const { node } of [width, channels, others.heads, others.sequences, others.images]) node.classList.add('attn-short');
  for (const { node } of [length, side]) node.classList.add('attn-wide');

  const toggles = ['tokens', 'maps'].flatMap((of) => data.families[of].lines.map((line) => {
    const one = toggle({ label: line.name, value: settings.on.includes(line.name), change: (on) => change({
      on: on ? [...ui.settings.on, line.name] : ui.settings.on.filter((name) => name !== line.name) }) });
    return { of, name: line.name, ...one };
  }));
  const rowPlace = element('div', { className: 'attn-row' });
  let rowChoice = null;
  let rowKey = '';
  const picture = element('div', { className: 'attn-wide' });
  const key = element('p', { className: 'attn-panel-title attn-wide' });
  ui.controls.append(...first.map(({ node }) => node), rowPlace,
    element('details', { className: 'attn-wide' }, element('summary', {}, 'Which lines; heads, batch, training'),
      element('div', { className: 'attn-row', role: 'group', ariaLabel: 'Lines' }, toggles.map(({ node }) => node)),
      element('div', { className: 'attn-row', role: 'group', ariaLabel: 'Sizes' }, Object.values(others).map(({ node }) => node))),
    length.node, side.node);
  ui.picture.append(picture, key);

  return (now, found) => {
    for (const [name, control] of Object.entries(controls)) {
      control.set(name === 'length' || name === 'side' ? options[name].indexOf(now[name]) : now[name]);
    }
    const [tokens, costs] = [now.family === 'tokens', now.view === 'costs'];
    for (const name of ['length', 'width', 'heads', 'sequences']) controls[name].node.hidden = !tokens;
    for (const name of ['side', 'channels', 'images']) controls[name].node.hidden = tokens;
    quantity.node.hidden = !costs;
    machine.node.hidden = costs && now.quantity !== 'time' && now.quantity !== 'peak';
    for (const one of toggles) {
      one.node.hidden = one.of !== now.family;
      one.set(now.on.includes(one.name));
    }
    const all = seen(data, now);
    rowPlace.hidden = costs;
    if (rowKey !== `${now.machine} ${now.training}`) {
      rowKey = `${now.machine} ${now.training}`;
      rowChoice = choice({ label: 'Point out a measured row', options: [['', 'none'], ...all.rows.map((row) => [row.case, row.case])],
        value: now.row, change: (row) => change({ row }) });
      rowChoice.node.classList.add('attn-wide');
      rowPlace.replaceChildren(rowChoice.node);
    }
    rowChoice.set(found[2].rows.some(([label]) => label === now.row) && !costs ? now.row : '');
    picture.replaceChildren(costs ? costsPicture(all, now, data, ui.width()) : roofPicture(all, now, data, found, ui.width()));
    const { threads } = data.machines[now.machine];
    const on = `${now.machine}${threads ? ` with ${threads} ${threads === 1 ? 'thread' : 'threads'}` : ''}`;
    const dots = costs && ['time', 'peak'].includes(now.quantity) ? ` Dots: measured at these sizes on ${on}.` : '';
    const alike = costs && tokens ? ' The window and the n × n map are counted without projections, layers with them.' : '';
    key.textContent = costs ? `Rings: two lines cross. Dotted: the chosen size.${alike}${dots}`
      : `Dots: rows measured on ${on} (grey: of mechanisms that are not switched on here). Rings: at best, at the chosen size. Line: the roof.`;
    return costs ? saysCosts(all, now) : saysRoof(all, now, found);
  };
}

export default figure({ tables, build });
