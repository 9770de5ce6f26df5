// Reads [[tex, display], …] as JSON from stdin; writes {"html": […], "css": "…"}: MathJax's own HTML for each
// formula, with MathML inside for those who listen to a page, and one style sheet for all of them.
// The first argument is the folder mathjax/es5 of the npm package.
const path = require('path');

async function main() {
  const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const MathJax = await require(path.join(process.argv[2], 'node-main.js')).init({
    loader: {load: ['input/tex-full', 'output/chtml', 'adaptors/liteDOM', 'a11y/assistive-mml']},
    // Without noundefined and noerrors an unknown macro is an error, not red text.
    tex: {packages: ['base', 'ams', 'newcommand', 'boldsymbol', 'mathtools', 'color', 'cancel', 'textmacros']},
    chtml: {fontURL: '.', adaptiveCSS: true},
    startup: {typeset: false},
  });
  const adaptor = MathJax.startup.adaptor;
  const html = input.map(([tex, display]) => {
    const container = MathJax.tex2chtml(tex, {display, em: 16, ex: 8, containerWidth: 1280});
    return adaptor.outerHTML(container);
  });
  const css = adaptor.textContent(MathJax.chtmlStylesheet());
  process.stdout.write(JSON.stringify({html, css}));
}

main().catch((error) => {
  process.stderr.write(String(error && error.stack || error) + '\n');
  process.exit(1);
});
