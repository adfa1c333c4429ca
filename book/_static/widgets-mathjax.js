// ipywidgets 8 typesets its labels with MathJax 2's queue; the pages have MathJax 3. Without this bridge the first
// widget on a page with formulas stops with an error.
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = {
      Queue: ([, , element]) => window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([element])),
    };
  }
});
