// Starts the interactive figures of a published page: each gets its state from the page and its code when it comes near.
// What anywidget does in a notebook, without a kernel. A classic script, so that it works from a disk too.
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, '');
  const waiting = new Map(); // name -> elements that wait for its code
  const known = {};

  function model(state) {
    const listeners = new Map();
    return {
      get: (name) => state[name],
      set(name, value) {
        state[name] = value;
        for (const call of listeners.get(`change:${name}`) ?? []) call();
      },
      save_changes() {},
      on(event, call) { listeners.set(event, [...(listeners.get(event) ?? []), call]); },
      off(event, call) { listeners.set(event, (listeners.get(event) ?? []).filter((one) => one !== call)); },
    };
  }

  function show(box) {
    const state = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
    box.attnModel = model(state);
    known[box.dataset.figure].render({ model: box.attnModel, el: box.querySelector('.attn-live') });
    box.dataset.ready = '';
  }

  function want(box) {
    const name = box.dataset.figure;
    if (known[name]) return show(box);
    if (waiting.has(name)) return waiting.get(name).push(box);
    waiting.set(name, [box]);
    const script = document.createElement('script');
    script.src = `${here}${name}.js${box.dataset.version ? `?v=${box.dataset.version}` : ''}`;
    document.head.append(script);
  }

  globalThis.attnFigures = {
    known,
    ready(name, figure) {
      known[name] = figure;
      for (const box of waiting.get(name) ?? []) show(box);
      waiting.delete(name);
    },
  };

  function start() {
    const near = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        want(target);
      }
    }, { rootMargin: '600px' });
    for (const box of document.querySelectorAll('.attn-figure')) near.observe(box);
    addEventListener('beforeprint', () => document.querySelectorAll('.attn-figure:not([data-ready])').forEach(want));
  }

  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
