import { COLOURS, choice, drawn, element, field, figure, number, slider, toggle } from './kit.js';

// --- Memory: `complexity/memory.py`, with moments in place of references -------------------------
// Every table that is taken is a moment. A table is alive from its own moment to the last one at which
// something still refers to it (`hold`). The peak is the moment at which most bytes are alive.

class Memory {
  constructor(training) {
    Object.assign(this, { training, now: 0, taken: [], kept: [], order: 0 });
  }

  take(elements, itemsize = 4) {
    const storage = { size: elements * itemsize, born: ++this.now, last: this.now };
    this.taken.push(storage);
    return storage;
  }

  /** These are alive until now. */
  hold(...things) {
    for (const thing of things.flat()) if (thing) (thing.storage ?? thing).last = this.now;
  }

  given(elements) { // the caller's: not counted, its gradient is
    const back = (grads) => {
      this.kept.push(...grads.filter(Boolean).map((one) => (one.foreign ? this.take(one.size, 1) : one)));
      return [];
    };
    return { elements, storage: { foreign: true }, slot: 0, step: this.step([], back, [], 0) };
  }

  step(inputs, back, saved = [], order = ++this.order) {
    if (!this.training) return null;
    return { order, inputs: inputs.map((x) => [x.step, x.slot]), back, saved, grads: [] };
  }

  /** The table that a step makes of its inputs; `saved` is alive until the backward pass has been there. */
  made(storage, elements, inputs, back, saved = []) {
    this.hold(storage, inputs);
    return { elements, storage, slot: 0, step: this.step(inputs, back, saved) };
  }

  /** Back through the steps, the latest first. */
  backward(output) {
    output.step.grads = [{ foreign: true, size: output.elements * 4 }];
    const waiting = [output.step];
    while (waiting.length) {
      const step = waiting.sort((a, b) => a.order - b.order).pop();
      const grads = Array.from(step.grads);
      step.grads = [];
      const results = step.back(grads);
      this.hold(grads, step.saved, results);
      step.inputs.forEach(([before, slot], i) => this.handOn(results.slice(i), before, slot, waiting));
    }
    this.hold(output, this.kept);
  }

  /** The first gradient goes to the step before, into what is there, or a new table where that must stay. */
  handOn(results, before, slot, waiting) {
    const [gradient] = results;
    if (!before || !gradient) return;
    if (!before.grads.length) waiting.push(before);
    const old = before.grads[slot];
    if (old && !old.foreign && !old.view) return;
    before.grads[slot] = old ? this.take(old.size, 1) : gradient;
    if (old) this.hold(old, results);
  }

  peak() {
    const change = new Array(this.now + 2).fill(0);
    for (const { size, born, last } of this.taken) {
      change[born] += size;
      change[last + 1] -= size;
    }
    let alive = 0;
    return Math.max(...change.map((by) => { alive += by; return alive; }));
  }

  learnt(elements) { this.kept.push(this.take(elements)); }

  clone(x) { return this.made(this.take(x.elements), x.elements, [x], (grads) => [grads[0]]); }

  scaled(x) { return this.made(this.take(x.elements), x.elements, [x], () => [this.take(x.elements)]); }

  add(x, y) { return this.made(this.take(x.elements), x.elements, [x, y], (grads) => [grads[0], grads[0]]); }

  addLearnt(x, elements) {
    return this.made(this.take(x.elements), x.elements, [x],
      (grads) => { this.learnt(elements); return [grads[0]]; });
  }

  /** ReLU, sigmoid, softmax: the backward pass is computed from the output. */
  fromOutput(x, strided = false) {
    const output = this.take(x.elements);
    return this.made(output, x.elements, [x], () => {
      const grad = this.take(x.elements);
      this.take(strided ? x.elements : 0);
      return [grad];
    }, [output]);
  }

  mean(x, elements, saved = []) {
    return this.made(this.take(elements), elements, [x], () => [this.take(x.elements)], saved);
  }

  /** The gradient does not lie in order, and is copied. */
  inOrder(grads, elements) {
    const copy = this.take(elements);
    this.hold(grads[0]);
    grads[0] = copy;
  }

  linear(x, rows, before, after, { bias = true, again = false } = {}) {
    return this.made(this.take(rows * after), rows * after, [x], () => {
      const grad = Object.assign(this.take(rows * before), { view: true });
      const weights = [this.take(before * after), this.take(bias ? after : 0)];
      this.hold(weights);
      if (!again) this.kept.push(...weights);
      return [grad];
    }, [x.storage]);
  }

  product(a, b, elements, strided = false) {
    return this.made(this.take(elements), elements, [a, b], (grads) => {
      if (strided) this.inOrder(grads, elements);
      const ofB = this.take(b.elements);
      return [this.take(a.elements), ofB];
    }, [a.storage, b.storage]);
  }

  layerNorm(x, width) {
    const rows = x.elements / width;
    const [output, mean, deviation] = [this.take(x.elements), this.take(rows), this.take(rows)];
    this.hold(mean);
    return this.made(output, x.elements, [x], () => {
      const grad = this.take(x.elements);
      this.learnt(2 * width);
      return [grad];
    }, [x.storage, mean, deviation]);
  }

  dropout(x) {
    if (!this.training) return x;
    const noise = this.take(x.elements);
    const made = this.made(this.take(x.elements), x.elements, [x], () => [this.take(x.elements)], [noise]);
    this.hold(noise);
    return made;
  }

  maxPool(x, elements) {
    const [output, places] = [this.take(elements), this.take(elements, 8)];
    return this.made(output, elements, [x], () => [this.take(x.elements)], [x.storage, places]);
  }

  /** A convolution of stride 1 that keeps the size; oneDNN's works on copies in its own order. */
  convolution(x, batch, before, after, places, kernel, bias = true) {
    const [given, made] = [x.elements, batch * places * after];
    const columns = kernel === 1 ? 0 : batch * places * before * kernel ** 2;
    const oneDnn = !(kernel === 1 && batch < 16) && (batch > 1 || kernel > 3 || given > 20480);
    const padded = (channels, block = 16) => Math.ceil(channels / block) * block;
    const [copyIn, copyOut] = [given / before * padded(before), batch * places * padded(after)];
    const copyKernel = padded(before) * padded(after) * kernel ** 2;

    const back = () => {
      let grad;
      let copy = null;
      if (oneDnn) {
        const copies = [this.take(copyOut), this.take(copyKernel)];
        const ordered = this.take(copyIn);
        this.hold(copies);
        grad = this.take(given);
        this.hold(ordered);
        const block = before >= 16 ? 16 : 8;
        const two = [this.take(batch * places * padded(after, block)),
          this.take(before <= 3 ? 0 : given / before * padded(before, block))];
        copy = this.take(copyKernel);
        this.hold(two);
      } else grad = this.take(given);
      this.learnt(before * after * kernel ** 2);
      this.learnt(bias ? after : 0);
      this.take(oneDnn ? 0 : columns);
      this.hold(copy);
      return [grad];
    };

    const plain = before < 16;
    const copies = oneDnn ? [this.take(plain ? 0 : copyIn),
      this.take(plain ? copyKernel / padded(before) * before : copyKernel)] : [];
    const ordered = this.take(oneDnn ? copyOut : columns);
    this.hold(copies);
    const output = this.take(made);
    this.hold(ordered);
    return this.made(output, made, [x], back, [x.storage]);
  }
}

function peakOf(training, run, ...inputs) {
  const memory = new Memory(training);
  const output = run(memory, ...inputs.map((elements) => memory.given(elements)));
  if (training) memory.backward(output);
  return memory.peak();
}

// --- What each mechanism takes, step by step -----------------------------------------------------

function attentionSteps(memory, x, sizes) {
  const { batch, nQ, nK = nQ, d, heads, kv = heads, cached = 0, dropout = false, strided = false } = sizes;
  const [fresh, dKV] = [nK - cached, d / heads * kv];
  const entering = () => (strided ? memory.clone(x) : x);
  const Q = memory.linear(entering(), batch * nQ, d, d);
  const K = memory.linear(entering(), batch * fresh, d, dKV);
  const V = memory.linear(entering(), batch * fresh, d, dKV);
  const all = cached ? memory.given(batch * nK * dKV) : null;
  const shape = { batch, nQ, nK, heads, kv, dK: d / heads };
  const plain = dropout && memory.training; // torch's kernel for a CPU has no dropout
  const [mixed, weights] = plain ? plainSteps(memory, Q, K, V, shape)
    : [fusedSteps(memory, Q, all ?? K, all ?? V, shape)];
  const inOrder = nQ === 1 || (plain ? heads === 1 : kv === heads);
  const merged = inOrder ? mixed : memory.clone(mixed);
  const output = memory.linear(merged, batch * nQ, d, d);
  memory.hold(Q, K, V, mixed, weights, x);
  return output;
}

/** torch's fused kernel: a block of scores at a time, and the logarithm of each row's sum. */
function fusedSteps(memory, Q, K, V, { batch, nQ, nK, heads, kv, dK }) {
  const grouped = kv < heads && nQ > 1;
  const queries = grouped ? memory.clone(Q) : Q;
  const rows = nQ * (heads / kv);
  const [blockQ, blockK] = [Math.min(rows, rows >= 768 ? 256 : rows >= 192 ? 64 : 32), Math.min(nK, 512)];
  const [output, sums] = [memory.take(Q.elements), memory.take(batch * heads * nQ)];
  memory.take(blockQ * (blockK + 2 + dK));
  memory.hold(output, sums);
  const back = () => {
    const results = [memory.take(Q.elements), memory.take(K.elements), memory.take(K.elements)];
    const ordered = memory.take(grouped && kv > 1 ? Q.elements : 0);
    memory.take(2 * blockQ * blockK);
    memory.hold(ordered);
    memory.hold(results);
    return results;
  };
  const saved = [queries.storage, K.storage, V.storage, output, sums];
  return memory.made(output, Q.elements, [queries, K, V], back, saved);
}

/** torch's plain formula with dropout, where queries, keys and values have the same heads. */
function plainSteps(memory, Q, K, V, { batch, nQ, nK, heads }) {
  const several = batch > 1;
  const copyQ = several && heads > 1 && nQ > 1;
  const copyK = several && heads > 1 && nK > 1;
  const multiplied = (a, b, elements, first, second, strided) => memory.product(
    first ? memory.clone(a) : a, second ? memory.clone(b) : b, elements, strided);
  const [queries, keys] = [memory.scaled(Q), memory.scaled(K)];
  memory.hold(queries);
  const scores = multiplied(queries, keys, batch * heads * nQ * nK, copyQ, copyK, false);
  memory.hold(queries, keys);
  const weights = memory.fromOutput(scores);
  const dropped = memory.dropout(weights);
  const mixed = multiplied(dropped, V, Q.elements, false, copyK, copyQ);
  memory.hold(dropped, weights);
  return [mixed, weights];
}

function blockSteps(memory, given, { batch, n, d, heads, strided }) {
  const attended = attentionSteps(memory, given, { batch, nQ: n, d, heads, dropout: true, strided });
  const sum = memory.add(given, memory.dropout(attended));
  const x = memory.layerNorm(sum, d);
  let hidden = memory.fromOutput(memory.linear(x, batch * n, d, 4 * d));
  hidden = memory.dropout(memory.linear(memory.dropout(hidden), batch * n, 4 * d, d));
  const output = memory.layerNorm(memory.add(x, hidden), d);
  memory.hold(attended, x, given);
  return output;
}

/** The kernel of a window: the mask as numbers, the output, the logarithms; scratch, let go at once. */
function windowKernel(memory, sequences, nQ, nK, dK) {
  const blockQ = Math.min(nQ, nQ >= 768 ? 256 : nQ >= 192 ? 64 : 32);
  const taken = [memory.take(nQ * nK), memory.take(sequences * nQ * dK), memory.take(sequences * nQ)];
  memory.take(blockQ * (Math.min(nK, 512) + 2 + dK));
  memory.hold(taken);
  return taken;
}

function windowSteps(memory, [q, k, v], { sequences, n, window, ahead, block, rows }) {
  const [elements, dK] = [q.elements, q.elements / (sequences * n)];
  const three = () => Array.from({ length: 3 }, () => memory.take(elements));
  if (n < window + block + ahead) { // one block would reach everything
    const masks = [memory.take(n * n, 1), memory.take(n * n, 1)];
    const kept = windowKernel(memory, sequences, n, n, dK);
    const output = memory.take(elements);
    memory.hold(masks, kept);
    const back = (grads) => {
      memory.inOrder(grads, elements);
      const results = three();
      const ordered = memory.take(elements);
      memory.take(2 * Math.min(n, n >= 768 ? 256 : 64) * Math.min(n, 512));
      memory.hold(ordered);
      return results;
    };
    return memory.made(output, elements, [q, k, v], back, [...kept, masks[1]]);
  }
  const blocks = Math.floor((n - window - ahead) / block);
  const size = window + block + ahead;
  const output = memory.take(elements);
  const mask = memory.take(block * size, 1);
  windowKernel(memory, sequences * blocks, block, size, dK);
  memory.hold(mask);
  let most = 0; // of the steps at both ends, where the blocks do not fit
  for (const [first, last] of [[0, window], [window + blocks * block, n]]) {
    for (let start = first; start < last; start += rows) {
      const stop = Math.min(start + rows, last);
      const reach = Math.min(n, stop + ahead) - Math.max(0, start - window);
      const [of, pairs] = [stop - start, (stop - start) * reach];
      most = Math.max(most, 4 * (of * dK + pairs) + Math.max(4 * reach * dK, 4 * pairs + pairs));
    }
  }
  memory.take(sequences * most, 1);
  memory.hold(output);
  const scores = sequences * Math.min(rows, n) * Math.min(n, rows + window + ahead);
  const back = () => {
    const results = three();
    const working = Array.from({ length: 7 }, () => memory.take(scores));
    memory.take(sequences * Math.min(rows, n));
    memory.hold(working);
    return results;
  };
  return memory.made(output, elements, [q, k, v], back, [output]);
}

/** Channel attention, spatial attention, both; `k` holds the thresholds of cnn.py. */
function gateSteps(k) {
  function meanAndMax(memory, x, elements) {
    if (!memory.training) {
      const mean = memory.mean(x, elements);
      const maximum = memory.mean(x, elements);
      memory.hold(mean);
      return [x, mean, maximum];
    }
    const back = () => [memory.take(x.elements)];
    if (x.elements < k.fuse_elements) {
      const mean = memory.mean(x, elements);
      const [largest, places] = [memory.take(elements), memory.take(elements, 8)];
      memory.hold(mean);
      return [x, mean, memory.made(largest, elements, [x], back, [places])];
    }
    const [largest, places] = [memory.take(elements), memory.take(elements, 8)];
    const average = memory.take(elements);
    memory.hold(largest, places);
    const step = memory.step([x], (grads) => [grads[0]], [places]);
    const result = (of, storage, slot) => ({ elements: of, storage, step, slot });
    return [result(x.elements, x.storage, 0), result(elements, average, 1), result(elements, largest, 2)];
  }

  function gated(memory, x, gate, inplace = false) {
    if (!memory.training && inplace) return x;
    return memory.made(memory.take(x.elements), x.elements, [x, gate], () => {
      const product = memory.take(x.elements);
      const other = x.elements >= k.fuse_elements ? null : memory.take(x.elements);
      const ofGate = memory.take(gate.elements);
      memory.hold(other);
      return [product, ofGate];
    }, [x.storage, gate.storage]);
  }

  function channel(memory, x, { batch, channels }) {
    const hidden = Math.max(1, Math.floor(channels / 16));
    const mlp = (y, again) => {
      const about = { bias: false, again };
      const inner = memory.fromOutput(memory.linear(y, batch, channels, hidden, about));
      return memory.linear(inner, batch, hidden, channels, about);
    };
    const [table, mean, maximum] = meanAndMax(memory, x, batch * channels);
    const weights = memory.fromOutput(memory.add(mlp(mean, false), mlp(maximum, true)));
    const output = gated(memory, table, weights);
    memory.hold(x, mean, maximum);
    return output;
  }

  function spatial(memory, x, { batch, height, width }, inplace = false) {
    const places = batch * height * width;
    const [table, mean, maximum] = meanAndMax(memory, x, places);
    const summary = memory.made(memory.take(2 * places), 2 * places, [mean, maximum],
      (grads) => [grads[0], grads[0]]);
    const weights = memory.fromOutput(memory.convolution(summary, batch, 2, 1, height * width, 7, false));
    const output = gated(memory, table, weights, inplace);
    memory.hold(x, mean, maximum, summary, weights);
    return output;
  }

  function both(memory, x, image) {
    const output = spatial(memory, channel(memory, x, image), image, true);
    memory.hold(x);
    return output;
  }
  return { channel, spatial, both };
}

function mapSteps(memory, x, { batch, channels, height, width }, k) {
  const n = height * width;
  const inner = Math.max(1, Math.floor(channels / 8));
  const [query, key, value] = [inner, inner, channels].map(
    (made) => memory.convolution(x, batch, channels, made, n, 1));
  const pairs = batch * n * n;
  let weights = null;
  let attended;
  if (pairs * 4 <= (memory.training ? k.keep_bytes : k.piece_bytes)) {
    weights = memory.fromOutput(memory.product(query, key, pairs), true);
    attended = memory.product(value, weights, value.elements);
  } else {
    attended = streamedSteps(memory, query, key, value, { batch, channels, n }, k);
  }
  const scaled = memory.made(memory.take(attended.elements), attended.elements, [attended], () => {
    const ofGamma = memory.take(attended.elements);
    const grad = memory.take(attended.elements);
    memory.hold(ofGamma);
    memory.learnt(1);
    return [grad];
  }, [attended.storage]);
  const output = memory.add(scaled, x);
  memory.hold(query, key, value, weights, attended, x);
  return output;
}

/** The map in pieces, in one buffer of the size of a piece; in the backward pass in two. */
function streamedSteps(memory, query, key, value, { batch, channels, n }, k) {
  const shared = (whole, most) =>
    Math.ceil(whole / Math.ceil(whole / Math.min(whole, Math.max(1, Math.floor(most)))));
  const [images, rows] = [shared(batch, k.piece_bytes / (n * n * 4)), shared(n, k.piece_bytes / (n * 4))];
  const [elements, narrow] = [value.elements, query.elements];
  const output = memory.take(elements);
  const piece = memory.take(images * rows * n);
  memory.take(images * rows * channels);
  memory.hold(output, piece);
  const back = () => {
    const results = [memory.take(narrow), memory.take(narrow), memory.take(elements)];
    const product = memory.take(elements);
    const pieces = [memory.take(batch * n)];
    memory.hold(product);
    pieces.push(memory.take(images * rows * n), memory.take(images * rows * n),
      memory.take(images * rows * narrow / (batch * n)));
    memory.hold(pieces);
    return results;
  };
  return memory.made(output, elements, [query, key, value], back,
    [query.storage, key.storage, value.storage, output]);
}

function backboneSteps(memory, given, image, widths, k) {
  let [x, { batch, channels, height, width }] = [given, image];
  widths.forEach((made, stage) => {
    x = memory.fromOutput(memory.convolution(x, batch, channels, made, height * width, 3));
    channels = made;
    if (stage === 2) return;
    x = gateSteps(k).both(memory, x, { batch, channels, height, width });
    [height, width] = [Math.floor(height / 2), Math.floor(width / 2)];
    x = memory.maxPool(x, batch * channels * height * width);
  });
  return mapSteps(memory, x, { batch, channels, height, width }, k);
}

// --- Work and traffic: the closed forms of `complexity` ------------------------------------------
// `product`: elements that products move, three times in training; `other`: those of other steps, twice.

const work = (flops, product, other = 0, training = 3 * flops) => ({ flops, product, other, training });
const together = (...parts) => work(...['flops', 'product', 'other', 'training'].map((name) =>
  parts.reduce((sum, part) => sum + part[name], 0)));

function priceOf(cost, training, peak, needs = 0) {
  const moved = 4 * (training ? 3 * cost.product + 2 * cost.other : cost.product + cost.other);
  return { flops: training ? cost.training : cost.flops, moved, peak, needs: Math.max(peak, needs) };
}

function attentionWork({ batch, nQ, nK = nQ, d, heads, kv = heads, cached = 0 }) {
  const [fresh, dKV] = [nK - cached, d / heads * kv];
  const [queries, keys, projected] = [batch * nQ * d, batch * nK * dKV, batch * fresh * dKV];
  const projections = 4 * batch * d * (nQ * d + fresh * dKV);
  const product = 2 * batch * nQ * nK * d;
  const weights = 2 * (d ** 2 + d) + 2 * (d * dKV + dKV);
  const moved = 4 * queries + 2 * (batch * fresh * d + projected) + weights;
  return {
    projections: work(projections, moved),
    ...work(projections + 2 * product, moved + 2 * queries + 2 * keys, 0, 3 * projections + 7 * product),
  };
}

function windowWork({ sequences, n, dK, window, causal }) {
  const reach = Math.min(window, n - 1);
  const side = n * reach - reach * (reach + 1) / 2; // pairs whose key comes before the query
  const pairs = sequences * (n + (causal ? side : 2 * side));
  return work(4 * pairs * dK, 4 * sequences * n * dK, 0, 14 * pairs * dK);
}

function channelWork({ batch, channels, height, width }) {
  const hidden = Math.max(1, Math.floor(channels / 16));
  const [elements, summary] = [batch * channels * height * width, batch * channels];
  return work(8 * summary * hidden, 4 * (summary + batch * hidden + channels * hidden),
    4 * elements + 8 * summary + 4 * batch * hidden);
}

function squeezeWork({ batch, channels, height, width }) {
  const hidden = Math.max(1, Math.floor(channels / 16));
  const [elements, summary] = [batch * channels * height * width, batch * channels];
  const parameters = 2 * channels * hidden + hidden + channels;
  return work(4 * summary * hidden, 2 * (summary + batch * hidden) + parameters,
    3 * elements + 4 * summary + 2 * batch * hidden);
}

function efficientWork({ batch, channels, height, width }) {
  let kernel = Math.floor((Math.log2(channels) + 1) / 2);
  kernel += 1 - kernel % 2;
  const [elements, summary] = [batch * channels * height * width, batch * channels];
  return work(2 * summary * kernel, 2 * summary + kernel, 3 * elements + 4 * summary);
}

function spatialWork({ batch, channels, height, width }) {
  const places = batch * height * width;
  const elements = places * channels;
  return work(4 * places * 49, 3 * places + 2 * 49, 4 * elements + 5 * places);
}

function mapWork({ batch, channels, height, width }, k) {
  const n = height * width;
  const inner = Math.max(1, Math.floor(channels / 8));
  const [pairs, elements, narrow] = [batch * n * n, batch * n * channels, batch * n * inner];
  const parameters = (channels + 1) * (2 * inner + channels) + 1;
  const scores = 2 * pairs * inner;
  const flops = 2 * batch * n * channels * (2 * inner + channels) + scores + 2 * pairs * channels;
  return work(flops, 6 * elements + 4 * narrow + 2 * pairs + parameters - 1, 2 * pairs + 5 * elements + 1,
    3 * flops + (pairs * 4 <= k.keep_bytes ? 0 : scores));
}

function backboneWork({ batch, height, width }, widths, k) {
  const parts = [];
  let channels = 3;
  widths.forEach((made, stage) => {
    const places = batch * height * width;
    const weights = channels * made * 9;
    parts.push(work(2 * places * weights, places * channels + weights + made + places * made),
      work(0, 0, 2 * places * made));
    channels = made;
    const image = { batch, channels, height, width };
    if (stage === 2) { parts.push(mapWork(image, k)); return; }
    [height, width] = [Math.floor(height / 2), Math.floor(width / 2)];
    parts.push(channelWork(image), spatialWork(image),
      work(0, 0, places * made + batch * made * height * width));
  });
  return { ...together(...parts), height, width };
}

// --- The candidates: `selection/candidates.py` ---------------------------------------------------

const headsOf = (width) => (width % 64 === 0 ? width / 64 : 1);

function forSequences(data, { n, d, batch, training, generation, reach }) {
  const k = data.constants;
  const heads = headsOf(d);
  const window = reach ?? k.window;
  const writes = generation && !training;
  const attention = (kv, keys) => {
    const sizes = { batch, d, heads, kv, ...(writes ? { nQ: 1, nK: keys, cached: keys - 1 } : { nQ: n }) };
    const peak = peakOf(training, (memory, x) => attentionSteps(memory, x, sizes), batch * sizes.nQ * d);
    return priceOf(attentionWork(sizes), training, peak);
  };
  const windowed = () => {
    const sizes = { sequences: batch * heads, n, dK: d / heads, window: Math.min(window, n),
      causal: generation, ahead: generation ? 0 : Math.min(window, n),
      block: k.window_block, rows: k.window_rows };
    const inner = peakOf(training, (memory, ...parts) => windowSteps(memory, parts, sizes),
      ...Array(3).fill(batch * n * d));
    const [held, weights] = training ? [5, d ** 2] : [batch === 1 ? 3 : 6, 0];
    const cost = together(windowWork(sizes), attentionWork({ batch, nQ: n, d, heads }).projections);
    return priceOf(cost, training, inner + 4 * (held * batch * n * d + weights));
  };
  const few = heads / 4;
  const all = { reach: n - 1, everything: true };
  return [
    { ...all, price: attention(heads, n), options: { num_heads: heads } },
    ...(generation ? [heads % 4 === 0 && { ...all, price: attention(few, n),
      options: { num_heads: heads, num_kv_heads: few } }] : []),
    { reach: Math.min(window, n - 1), everything: window >= n - 1, options: { window },
      price: writes ? attention(heads, Math.min(n, window + 1)) : windowed() },
  ];
}

function forMaps(data, { batch, channels, height, width, training }) {
  const k = data.constants;
  const gates = gateSteps(k);
  const n = height * width;
  const image = { batch, channels, height, width };
  const elements = batch * channels * n;
  const heads = headsOf(channels);
  const held = (run) => (run ? peakOf(training, (memory, x) => run(memory, x, image, k), elements)
    : (training ? 3 : 1) * elements * 4); // where a gate's memory is not modelled: the maps that it makes
  const priced = (cost, run, needs) => priceOf(cost, training, held(run), needs);
  const tokens = { batch, nQ: n, d: channels, heads };
  // The map is no contiguous table of tokens: in training it is copied.
  const copies = training ? (batch > 1 ? 3 : 1) * elements * 4 : 0;
  const attended = peakOf(training, (memory, x) => attentionSteps(memory, x, tokens), elements) + copies;
  const all = { reach: n - 1, everything: true };
  const [channel, spatial] = [channelWork(image), spatialWork(image)];
  return [
    { ...all, price: priced(mapWork(image, k), mapSteps, 2 * batch * n * n * 4) },
    { ...all, price: priceOf(attentionWork(tokens), training, attended), options: { num_heads: heads } },
    { price: priced(together(channel, spatial), gates.both) },
    { price: priced(spatial, (memory, x) => gates.spatial(memory, x, image)) },
    { price: priced(channel, gates.channel) },
    { price: priced(squeezeWork(image)) },
    { price: priced(efficientWork(image)) },
  ];
}

function forImages(data, { batch, height, width, training }) {
  const k = data.constants;
  const [image, side] = [{ batch, channels: 3, height, width }, Math.min(height, width)];
  const pairs = (Math.max(1, Math.floor(height / 4)) * Math.max(1, Math.floor(width / 4))) ** 2;
  const elements = batch * 3 * height * width;
  const widths = k.widths;
  const [, , d] = widths;
  const body = backboneWork(image, widths, k);
  const all = { reach: height * width - 1, everything: true };
  const whole = 2 * batch * pairs * 4;
  const classifier = work(2 * batch * d * k.classes, batch * d + (d + 1) * k.classes + batch * k.classes);
  const network = (cost, run) => priceOf(cost, training, peakOf(training, run, elements), whole);
  const found = [null, null];
  if (side >= 4) {
    const { depth, heads, cells: n } = k.hybrid;
    const tokens = batch * n * d;
    const attention = attentionWork({ batch, nQ: n, d, heads });
    const forward = work(16 * tokens * d, 10 * tokens + 8 * d ** 2 + 5 * d, 18 * tokens + 4 * d);
    const block = { ...together(attention, forward), training: 3 * (attention.flops + forward.flops) };
    const cells = work(0, 0, batch * d * body.height * body.width + tokens);
    const after = work(0, 0, 2 * tokens + n * d + tokens + batch * d); // positions, and the mean at the end
    const cost = together(body, cells, ...Array(depth).fill(block), after, classifier);
    const run = (memory, given) => {
      let x = backboneSteps(memory, given, image, widths, k);
      x = memory.addLearnt(memory.mean(x, tokens, [x.storage]), n * d);
      for (let i = 0; i < depth; i++) x = blockSteps(memory, x, { batch, n, d, heads, strided: i === 0 });
      const mean = memory.mean(x, batch * d);
      const output = memory.linear(mean, batch, d, k.classes);
      memory.hold(x);
      return output;
    };
    const options = { input_shape: [3, height, width], num_classes: k.classes };
    found[0] = { ...all, price: network(cost, run), options };
  }
  if (side >= 8) {
    const pooled = batch * Math.floor(body.height / 2) * Math.floor(body.width / 2) * d;
    const pooling = work(0, 0, batch * body.height * body.width * d + 2 * pooled + batch * d);
    const cost = together(body, pooling, classifier);
    const run = (memory, given) => {
      const x = memory.maxPool(backboneSteps(memory, given, image, widths, k), pooled);
      const output = memory.linear(memory.mean(x, batch * d), batch, d, k.classes);
      memory.hold(x);
      return output;
    };
    found[1] = { ...all, price: network(cost, run), options: { num_classes: k.classes } };
  }
  const one = { ...image, channels: 64 };
  const peak = peakOf(training, (memory, x) => gateSteps(k).both(memory, x, one),
    batch * 64 * height * width);
  const gated = priceOf(together(channelWork(one), spatialWork(one)), training, peak);
  return [...found, { price: gated, options: { channels: 64 } }];
}

// --- Seconds: `selection/prediction.py` ----------------------------------------------------------

/** Of the nearest measured layers of this kind: what they took over what the ceilings allow. */
function secondsOf(machine, constants, kind, price, training) {
  const mode = training ? 'training' : 'forward';
  const rows = machine.rows.map(([of, when, flops, moved, seconds, file, name]) =>
    ({ of, when, flops, moved, seconds, file, name }));
  const plain = (flops, moved) => flops / machine.peak_flops + moved / machine.bandwidth;
  const factor = (row) => row.seconds / plain(row.flops, row.moved);
  const fitting = rows.filter((row) => row.when === mode);
  const away = (row) => Math.hypot(
    Math.log((price.flops + 1) / (row.flops + 1)), Math.log(price.moved / row.moved));
  const near = fitting.filter((row) => row.of === kind).map((row) => [away(row), row])
    .sort((a, b) => a[0] - b[0]).slice(0, constants.nearest);
  const expected = plain(price.flops, price.moved);
  if (!near.length) {
    const factors = fitting.map(factor).sort((a, b) => a - b);
    const half = factors.length / 2;
    const median = factors.length ? (factors[Math.ceil(half) - 1] + factors[Math.floor(half)]) / 2 : 1;
    return [expected * median, []];
  }
  const shares = near.map(([distance]) => 1 / (distance ** 2 + 1e-6));
  const sum = (values) => values.reduce((a, b) => a + b);
  const log = sum(near.map(([, row], i) => shares[i] * Math.log(factor(row)))) / sum(shares);
  return [expected * Math.exp(log), near.map(([, row]) => ({ file: row.file, row: row.name }))];
}

// --- The rules: `selection/selector.py` ----------------------------------------------------------

/** Python's `round half to even` of what a double really is, with digits after the point. */
function rounded(value, digits, group = false) {
  const exact = value.toFixed(40);
  const cut = exact.length - 40 + digits;
  const tie = /^50*$/.test(exact.slice(cut));
  const even = Number(exact.slice(0, cut).replace('.', '').at(-1)) % 2 === 0;
  const text = tie && even ? exact.slice(0, cut) : value.toFixed(digits);
  const [whole, part] = text.split('.');
  return (group ? whole.replace(/\B(?=(\d{3})+$)/g, ',') : whole) + (digits ? `.${part}` : '');
}

/** Python's `.2g`. */
/** Two digits, without a power of ten. */
const general = (value) => Number(value.toPrecision(2)).toFixed(10).replace(/\.?0+$/, '');

const grouped = (whole) => rounded(whole, 0, true);
const sizeWords = (bytes) => (bytes >= 2 ** 30 ? `${rounded(bytes / 2 ** 30, 1)} GiB`
  : bytes >= 2 ** 20 ? `${rounded(bytes / 2 ** 20, 1)} MiB` : `${rounded(bytes / 2 ** 10, 1)} KiB`);
const timeWords = (seconds) => (seconds >= 1 ? `${general(seconds)} s` : `${general(seconds * 1e3)} ms`);

function lacks(entry, { memory_bytes: memory, latency_s: latency, reach, accuracy }) {
  if (!entry.fits) {
    return `needs ${sizeWords(entry.price.needs)} of memory, and there are ${sizeWords(memory)}`;
  }
  if (latency !== null && entry.seconds > latency) {
    return `takes ${timeWords(entry.seconds)} by prediction, and there are ${timeWords(latency)}`;
  }
  if (reach !== null && !entry.everything && entry.reach < reach) {
    return `reaches ${grouped(entry.reach)} places, and ${grouped(reach)} are asked for`;
  }
  if (accuracy !== null && entry.accuracy === null) {
    return `was never measured on such a task, and an accuracy of ${rounded(accuracy, 2)} is asked for`;
  }
  if (accuracy === null || entry.accuracy >= accuracy) return '';
  return `was right in ${rounded(entry.accuracy, 2)} of the cases, and ${rounded(accuracy, 2)} is asked for`;
}

function holdToBudget(entries, limit, inputs) {
  const left = entries.filter((entry) => !entry.out);
  if (limit === null || !left.length) return;
  const need = (entry) => `${rounded(entry.price.flops / inputs / 1e9, 1, true)} GFLOP`;
  let over = left.filter((entry) => entry.price.flops > limit * inputs);
  if (over.length === left.length) {
    const cheapest = left.reduce((a, b) => (b.price.flops < a.price.flops ? b : a));
    over = over.filter((entry) => entry !== cheapest);
    cheapest.reason += `; over the budget as well with ${need(cheapest)}, but the cheapest`;
  }
  for (const entry of over) entry.out = `needs ${need(entry)}, more than the budget`;
}

/** What is the same for every size stands in `data.kinds`: name, words, accuracy. Here come the sizes. */
function candidatesOf(data, now) {
  const { data_type: type, training, reach, batch, height, columns: width } = now;
  const generation = now.task_type === 'generation';
  if (type === 'sequential') {
    const [n, d] = [now.sequence_length, now.d_model];
    const [heads, few] = [headsOf(d), headsOf(d) / 4];
    return [generation ? (training ? 'generation, training' : 'generation') : type,
      forSequences(data, { n, d, batch, training, generation, reach }),
      { n: grouped(n), window: grouped(reach ?? data.constants.window), heads, few }];
  }
  const size = `${height} x ${width}`;
  if (type === 'spatial') {
    return [type, forMaps(data, { batch, channels: now.channels, height, width, training }), { size }];
  }
  return [type, forImages(data, { batch: batch * now.frames, height, width, training }), { size }];
}

/** Every candidate, in order, those that are out last: `AttentionSelector.consider`. */
function consider(data, now) {
  const machine = data.machines.find((one) => one.name === now.machine);
  const names = data.machines.map((one) => one.name);
  if (!machine) throw new Error(`no machine ${now.machine}; there are ${names.join(', ')}`);
  const [group, found, sizes] = candidatesOf(data, now);
  const { places_first: placesFirst, remark } = data.tasks[now.data_type][now.task_type];
  const remarked = now.data_type === 'mixed' && now.task_type !== 'classification';
  const far = now.reach !== null && now.reach > data.constants.kernel_reach;
  const able = data.kinds[group].map((kind, i) => [kind, found[i]]).filter(([, one]) => one);
  const entries = able.map(([kind, one]) => {
    const [accuracy, source] = far ? kind.far : kind.near;
    const [seconds, measured] = secondsOf(machine, data.constants, kind.kind, one.price, now.training);
    const reason = kind.text.replace(/\{(\w+)\}/g, (_, name) => sizes[name]);
    const entry = {
      options: {}, ...kind, ...one, accuracy, seconds, fits: one.price.needs <= now.memory_bytes,
      evidence: source ? [...measured, source] : measured,
      reason: remarked ? `${reason}; ${remark}` : reason,
    };
    return { ...entry, out: lacks(entry, now) };
  });
  const frames = now.data_type === 'mixed' ? now.frames : 1;
  holdToBudget(entries, data.budgets[now.computational_budget], now.batch * frames * (now.training ? 3 : 1));
  const rank = ({ everything, reach, accuracy }) => {
    if (now.reach !== null) return [0, 0];
    const looks = everything ? 0 : reach ? 1 : 2;
    return [placesFirst ? Math.floor(looks / 2) : looks, accuracy === null ? 1 : 0];
  };
  const key = (entry) => [entry.out ? 1 : 0, ...rank(entry), entry.seconds];
  return entries.map((entry) => [key(entry), entry])
    .sort(([a], [b]) => a.map((x, i) => x - b[i]).find((by) => by) ?? 0).map(([, entry]) => entry);
}

function nothingFits(entries, memory) {
  if (!entries.some((entry) => entry.fits)) {
    const least = entries.reduce((a, b) => (b.price.needs < a.price.needs ? b : a));
    const name = least.implementation;
    const need = sizeWords(least.price.needs);
    return `nothing fits into ${sizeWords(memory)}: the least, ${name}, needs ${need}`;
  }
  const lack = entries.map((entry) => `${entry.implementation} ${entry.out}`);
  return `nothing meets all that is asked: ${lack.join('; ')}`;
}

/** As one would write it: `MultiHeadAttention(num_heads=8)`. */
function written({ implementation, options }) {
  const value = (x) => (Array.isArray(x) ? `(${x.join(', ')})` : x);
  return `${implementation}(${Object.entries(options).map(([name, x]) => `${name}=${value(x)}`).join(', ')})`;
}

function tables(data, now) {
  const entries = consider(data, now);
  const left = entries.filter((entry) => !entry.out);
  const out = entries.filter((entry) => entry.out);
  const remarks = out.map((entry) => `${entry.implementation} ${entry.out}`);
  const columns = ['candidate', 'FLOPs', 'peak bytes', 'bytes needed', 'seconds', 'reach', 'accuracy'];
  const row = ({ type, price, seconds, reach, accuracy }) => (
    [type, price.flops, price.peak, price.needs, seconds, reach, accuracy]);
  const why = (entry) => entry.out || [entry.reason, ...(entry === left[0] ? remarks : [])].join('; ');
  const answer = left.length ? written(left[0]) : nothingFits(entries, now.memory_bytes);
  const evidence = entries.flatMap((entry) => entry.evidence.map(
    ({ file, row: which }) => [entry.type, file, which, data.shown[file].text]));
  return [
    { name: 'Answer', columns: ['', 'what', 'by the times of'],
      rows: [['first choice', answer, now.machine]] },
    { name: 'Recommended, the most suitable first', columns, rows: left.map(row) },
    { name: 'Left out', columns, rows: out.map(row) },
    { name: 'Why', columns: ['candidate', 'in code', 'fits', 'why'],
      rows: entries.map((entry) => [entry.type, written(entry), entry.fits ? 'yes' : 'no', why(entry)]) },
    { name: 'Evidence', columns: ['candidate', 'file in results/', 'row', 'shown in'],
      rows: evidence },
  ];
}

// --- The form ------------------------------------------------------------------------------------

const KINDS = [['sequential', 'A sequence of tokens'], ['spatial', 'A feature map'],
  ['mixed', 'Images or frames, by a whole network']];
const TASKS = [['classification', 'Classification: one answer'],
  ['generation', 'Generation: made piece by piece'],
  ['detection', 'Detection: what is where']];
// Where the slider of the memory stops: 1 MiB, 1.5, 2, 3, … to 1 TiB.
const STOPS = Array.from({ length: 41 }, (_, i) => 2 ** (20 + Math.floor(i / 2)) * (i % 2 ? 1.5 : 1));

/** What a text means as a number, or why it means none. `scale`: how many of the shown unit make one. */
function understood(text, { label, limits: [least, most], whole, optional, scale = 1 }) {
  const bare = text.trim().replace(whole ? /[,_\s]/g : /\s/g, '');
  if (!bare && optional) return { value: null };
  const value = Number(bare) / scale;
  const plain = whole ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
  if (plain.test(bare) && value >= least && value <= most) return { value };
  const say = (x) => (x * scale >= 1e-3 ? (x * scale).toLocaleString('en') : String(x * scale));
  const given = text.trim() || 'nothing';
  const got = plain.test(bare) ? Number(bare).toLocaleString('en', { maximumFractionDigits: 6 }) : given;
  const kind = whole ? 'a whole number' : 'a number';
  return { problem: `${label} must be ${kind} from ${say(least)} to ${say(most)}, got ${got}.` };
}

/** A number to type in. One that cannot be is not taken: a message says why, and the answer stays. */
function typed(ui, label, name, about = {}) {
  const rule = { label, limits: ui.data.limits[name], whole: true, ...about };
  const shown = (value) => (value === null ? ''
    : String(Number((value * (rule.scale ?? 1)).toPrecision(12))));
  const problem = element('span', { className: 'attn-problem', role: 'alert' });
  let wrongAt; // the setting, while the field holds something that cannot be
  const one = field({ label, value: shown(ui.settings[name]), placeholder: rule.optional ?? '',
    inputMode: rule.whole ? 'numeric' : 'decimal',
    change: (text) => {
      const found = understood(text, rule);
      wrongAt = found.problem && ui.settings[name];
      const kept = `The answer is still the one for ${shown(ui.settings[name]) || 'nothing asked'}.`;
      say(found.problem && `${found.problem} ${kept}`);
      if (!found.problem) ui.change({ [name]: found.value });
    } });
  problem.id = `${one.input.id}-problem`;
  one.node.classList.add('attn-short');
  function say(text = '') {
    problem.textContent = text;
    problem.hidden = !text;
    if (text) one.input.setAttribute('aria-describedby', problem.id);
    else one.input.removeAttribute('aria-describedby');
    one.input.setAttribute('aria-invalid', String(Boolean(text)));
  }
  say();
  const set = (value) => {
    if (problem.textContent && value === wrongAt) return;
    say();
    one.set(shown(value));
  };
  return { node: one.node, set, problem };
}

// --- The answer, drawn ---------------------------------------------------------------------------

const flopsWords = (flops) => {
  const units = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']];
  const [unit, name] = units.find(([least]) => flops >= least) ?? [1, ''];
  return `${number(flops / unit, flops / unit < 10 ? 1 : 0)} ${name}FLOP`;
};

/** A row for each candidate on a logarithmic axis, with the limit as a line; what is out is crossed. */
function strip({ title, entries, value, words, limit, width }) {
  const row = 38;
  const values = entries.map(value).map((x) => Math.max(x, 1e-12));
  const [low, high] = [Math.min(...values) / 3, Math.max(...values) * 3];
  const place = (x) => 8 + (width - 16) * Math.min(1, Math.max(0, Math.log(x / low) / Math.log(high / low)));
  const height = 20 + row * entries.length;
  const said = entries.map((entry, i) =>
    `${entry.type} ${words(values[i])}${entry.out ? ', left out' : ''}`).join('; ');
  const box = drawn('svg', { role: 'img', width, height, viewBox: `0 0 ${width} ${height}`,
    'aria-label': `${title}${limit === null ? '' : `, limit ${words(limit)}`}: ${said}` });
  if (limit !== null) {
    const x = place(limit);
    const late = x > width / 2;
    box.append(drawn('line', { x1: x, x2: x, y1: 16, y2: height, class: 'attn-limit' }),
      drawn('text', { x: x + (late ? 4 : -4), y: 12, class: 'attn-tick',
        'text-anchor': late ? 'end' : 'start' }, `limit ${words(limit)}${limit > high ? ' →' : ''}`));
  }
  entries.forEach((entry, i) => {
    const [x, y] = [place(values[i]), 20 + row * i + 27];
    box.append(drawn('text', { x: 0, y: y - 12, class: `attn-note ${entry.out ? 'attn-out' : 'attn-halo'}` },
      entry.type),
      drawn('text', { x: width, y: y - 12, class: 'attn-note attn-halo', 'text-anchor': 'end' },
        words(values[i])),
      drawn('line', { x1: 8, x2: width - 8, y1: y, y2: y, class: 'attn-grid' }),
      drawn('circle', { cx: x, cy: y, r: 6, stroke: COLOURS[0], 'stroke-width': 2,
        class: entry.out ? 'attn-hollow' : null,
        fill: entry.out ? null : COLOURS[0] }));
    if (entry.out) box.append(drawn('path', { d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, class: 'attn-cross' }));
  });
  return element('div', {}, element('p', { className: 'attn-panel-title' }, title), box);
}

/** What a prediction and an accuracy rest on: in the book a link to where it is shown, else words. */
function evidenceView(ui, entry) {
  const inBook = Boolean(ui.picture.closest('.attn-figure'));
  const items = entry.evidence.map(({ file, row }) => {
    const { text, page, anchor } = ui.data.shown[file];
    const where = inBook ? element('a', { href: `${page}.html#${anchor}` }, text) : `${text} (${page}.ipynb)`;
    return element('li', {}, `${row}, in `, element('code', {}, `results/${file}`), ': ', where);
  });
  return items.length ? [element('p', {}, 'What this rests on:'), element('ul', {}, items)]
    : element('p', {}, 'No measured row stands behind this; the cost model alone speaks.');
}

function entryView(ui, entry, open) {
  const facts = [timeWords(entry.seconds), `${sizeWords(entry.price.peak)} at the peak`,
    flopsWords(entry.price.flops),
    entry.everything ? 'reaches everything' : `reaches ${grouped(entry.reach)} places`,
    entry.accuracy === null ? 'accuracy never measured'
      : `right in ${rounded(entry.accuracy, 2)} of the cases`];
  if (entry.price.needs > entry.price.peak) facts.splice(2, 0, `${sizeWords(entry.price.needs)} if compiled`);
  const fold = (event) => open[event.target.open ? 'add' : 'delete'](entry.type);
  return element('li', {}, element('details', { open: open.has(entry.type), ontoggle: fold },
    element('summary', {}, element('strong', {}, entry.type)),
    element('p', {}, element('code', {}, written(entry))), element('p', {}, `${facts.join(' · ')}.`),
    element('p', {}, `${entry.reason[0].toUpperCase()}${entry.reason.slice(1)}.`), evidenceView(ui, entry)));
}

/** The same question, to be asked in Python. */
function inPython(data, now) {
  const machine = data.machines.find((one) => one.name === now.machine);
  const text = JSON.stringify;
  const hardware = `complexity.Hardware(${text(machine.name)}, ${machine.peak_flops}, ${machine.bandwidth})`;
  const said = {
    data_type: text(now.data_type), task_type: text(now.task_type),
    computational_budget: text(now.computational_budget),
    sequence_length: { sequential: now.sequence_length, mixed: now.frames }[now.data_type],
    spatial_dims: now.data_type === 'sequential' ? null : `(${now.height}, ${now.columns})`,
    width: { sequential: now.d_model, spatial: now.channels }[now.data_type],
    batch: now.batch, training: now.training ? 'True' : null, memory_bytes: now.memory_bytes,
    latency_s: now.latency_s,
    reach: now.reach, accuracy: now.accuracy, machine: machine.rows.length ? text(machine.name) : hardware,
  };
  const parts = Object.entries(said).filter(([, value]) => value !== null && value !== undefined);
  const lines = parts.map(([name, value]) => `    ${name}=${value},\n`);
  return `AttentionSelector.recommend_attention_type(\n${lines.join('')})`;
}

function build(ui) {
  const { settings, data, change } = ui;
  const pick = (label, name, options) => choice({ label, options, value: settings[name],
    change: (value) => change({ [name]: value }) });
  const OWN = 'your own';
  const asked = (of) => ({ ...data.begin, machine: ui.settings.machine, ...of });
  const question = choice({ label: 'A question to begin with', value: OWN,
    options: [...data.questions.map(([name]) => [name, name]), [OWN, 'Your own']],
    change: (name) => change(asked(data.questions.find(([one]) => one === name)?.[1] ?? ui.settings)) });
  const near = (wanted) => {
    const away = STOPS.map((stop) => Math.abs(Math.log(stop / wanted)));
    return away.indexOf(Math.min(...away));
  };
  let bytes = settings.memory_bytes;
  const memory = slider({ label: 'Memory limit', min: 0, max: STOPS.length - 1, value: near(bytes),
    format: (i) => sizeWords(i === near(bytes) ? bytes : STOPS[i]),
    change: (i) => change({ memory_bytes: STOPS[i] }) });
  const ofLimit = ([, limit]) => limit ?? Infinity;
  const budgets = Object.entries(data.budgets).sort((a, b) => ofLimit(a) - ofLimit(b)).map(
    ([name, limit]) => [name, `${name}: ${limit === null ? 'no limit' : flopsWords(limit)}`]);
  const controls = {
    data_type: pick('Data', 'data_type', KINDS),
    task_type: pick('Task', 'task_type', TASKS),
    sequence_length: typed(ui, 'Length n', 'sequence_length'),
    d_model: typed(ui, 'Width d_model', 'd_model'),
    frames: typed(ui, 'Frames', 'frames'),
    height: typed(ui, 'Height H', 'height'),
    columns: typed(ui, 'Width W', 'columns'),
    channels: typed(ui, 'Channels C', 'channels'),
    batch: typed(ui, 'Batch B', 'batch'),
    memory_bytes: { node: memory.node, set: (value) => { bytes = value; memory.set(near(value)); } },
    computational_budget: pick('FLOPs for one input', 'computational_budget', budgets),
    latency_s: typed(ui, 'Time limit, ms', 'latency_s',
      { whole: false, optional: 'no limit', scale: 1e3 }),
    reach: typed(ui, 'Reach needed', 'reach', { optional: 'any' }),
    accuracy: typed(ui, 'Accuracy needed', 'accuracy', { whole: false, optional: 'any' }),
    machine: pick('Times of', 'machine', data.machines.map(({ name }) => [name, name])),
    training: toggle({ label: 'Training: the backward pass too', value: settings.training,
      change: (value) => change({ training: value }) }),
  };
  const row = (...names) => element('div', { className: 'attn-row' },
    names.map((name) => controls[name].node), names.map((name) => controls[name].problem));
  ui.controls.append(element('div', { className: 'attn-row' }, question.node), row('data_type', 'task_type'),
    row('sequence_length', 'd_model', 'frames', 'height', 'columns', 'channels', 'batch'),
    row('memory_bytes', 'latency_s', 'reach', 'accuracy'),
    row('computational_budget', 'machine', 'training'));
  const onlyFor = { sequence_length: ['sequential'], d_model: ['sequential'], frames: ['mixed'],
    height: ['spatial', 'mixed'], columns: ['spatial', 'mixed'], channels: ['spatial'] };
  const verdict = element('p', { className: 'attn-wide attn-verdict' });
  const strips = element('div', { className: 'attn-picture' });
  const [best, left, code] = [element('ol', { className: 'attn-answer' }),
    element('ul', { className: 'attn-answer' }), element('code')];
  const without = element('div', {}, element('p', { className: 'attn-panel-title' }, 'Left out'), left);
  const words = element('div', { className: 'attn-wide' }, best, without, element('details', {},
    element('summary', {}, 'The same question in Python'), element('pre', { tabIndex: 0 }, code)));
  ui.picture.append(verdict, strips, words);
  const open = new Set(); // candidates whose numbers and evidence are unfolded
  let before; // the first choice so far

  return (now) => {
    for (const [name, control] of Object.entries(controls)) control.set(now[name]);
    for (const [name, kinds] of Object.entries(onlyFor)) {
      controls[name].node.hidden = !kinds.includes(now.data_type);
    }
    const same = (wanted) => Object.entries(asked(wanted)).every(([name, value]) => now[name] === value);
    question.set(data.questions.find(([, wanted]) => same(wanted))?.[0] ?? OWN);

    const entries = consider(data, now);
    const found = entries.filter((entry) => !entry.out);
    if (before !== found[0]?.type) {
      open.delete(before);
      before = found[0]?.type;
      open.add(before);
    }
    const room = ui.width();
    const width = room >= 600 ? (room - 24) / 2 : room;
    strips.replaceChildren(
      strip({ title: 'Memory that it needs, logarithmic', entries, value: (entry) => entry.price.needs,
        words: sizeWords, limit: now.memory_bytes, width }),
      strip({ title: 'Predicted time, logarithmic', entries, value: (entry) => entry.seconds,
        words: timeWords, limit: now.latency_s, width }),
    );
    best.replaceChildren(...found.map((entry) => entryView(ui, entry, open)));
    const out = entries.filter((entry) => entry.out);
    left.replaceChildren(...out.map((entry) => (
      element('li', {}, element('strong', {}, entry.type), ` ${entry.out}.`))));
    without.hidden = !out.length;
    code.textContent = inPython(data, now);
    if (!found.length) {
      verdict.replaceChildren('No answer');
      return `No answer: ${nothingFits(entries, now.memory_bytes)}.`;
    }
    const [first] = found;
    verdict.replaceChildren('First choice: ', element('strong', {}, first.type), ', ',
      element('code', {}, written(first)));
    const rest = out.length === 1 ? `1 of ${entries.length} candidates is left out`
      : out.length ? `${out.length} of ${entries.length} candidates are left out`
        : `All ${entries.length} candidates meet what is asked`;
    return `First choice: ${first.type}, ${timeWords(first.seconds)} and ${sizeWords(first.price.peak)} `
      + `by prediction. ${rest}.`;
  };
}

export default figure({ tables, build });
