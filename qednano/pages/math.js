// Sets formulas with KaTeX when they come into view; a formula that can't be set stays as it was written.
(() => {
  const options = {throwOnError: true, trust: false, strict: "ignore", maxExpand: 500, maxSize: 20, errorColor: "currentColor"};
  const set = (place) => {
    if (place.dataset.set) return;
    place.dataset.set = "1";
    const source = place.textContent;
    try {
      katex.render(source, place, {...options, displayMode: place.classList.contains("display")});
      place.classList.add("set");
      if (place.scrollWidth > place.clientWidth && place.classList.contains("display")) place.tabIndex = 0;
    } catch (error) {
      place.textContent = source;
      place.classList.add("broken");
      place.title = String(error.message || error).slice(0, 300);
    }
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); set(entry.target); }
  }, {rootMargin: "800px"});
  window.setFormulas = (root) => root.querySelectorAll(".math:not([data-set])").forEach((place) => watcher.observe(place));
  addEventListener("beforeprint", () => document.querySelectorAll(".math:not([data-set])").forEach(set));
  document.addEventListener("DOMContentLoaded", () => setFormulas(document));
})();
