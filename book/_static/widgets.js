// Widgets set their labels through MathJax 2; the pages with formulas load MathJax 3.
document.addEventListener("DOMContentLoaded", () => {
  const mathjax = window.MathJax;
  if (!mathjax?.startup || mathjax.Hub) return;
  mathjax.Hub = {
    Queue([, , element]) {
      mathjax.startup.promise = mathjax.startup.promise.then(() => mathjax.typesetPromise([element]));
    },
  };
});
