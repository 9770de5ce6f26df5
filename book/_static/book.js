// Boxes that scroll sideways can be reached and scrolled by keyboard, and say what they are; boxes that fit cost no Tab.
(() => {
  const KINDS = [
    ['div.math .formula', 'Wide formula'],
    ['.pst-scrollable-table-container', 'Wide table'],
    ['figure', 'Wide figure'],
    ['pre', 'Wide code'],
    ['.cell_output > div', 'Wide output'],
  ];

  function mark(box, kind) {
    const scrolls =
      box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX);
    if (scrolls && !box.dataset.scrolls) {
      box.dataset.scrolls = '';
      box.tabIndex = 0;
      if (!box.hasAttribute('role') && box.tagName !== 'FIGURE') box.setAttribute('role', 'group'); // a figure is one already
      if (!box.hasAttribute('aria-label')) box.setAttribute('aria-label', kind + ', scrolls sideways');
    } else if (!scrolls && box.dataset.scrolls !== undefined) {
      delete box.dataset.scrolls;
      for (const name of ['tabindex', 'role', 'aria-label']) box.removeAttribute(name);
    }
  }

  function start() {
    const article = document.querySelector('.bd-article');
    if (!article) return;
    const boxes = KINDS.flatMap(([selector, kind]) => [...article.querySelectorAll(selector)].map((box) => [box, kind]));
    const all = () => boxes.forEach(([box, kind]) => mark(box, kind));
    new ResizeObserver(all).observe(article); // also when a folded cell opens
    document.fonts.ready.then(all);
  }

  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
