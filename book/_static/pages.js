// What scrolls is reached by the keyboard; frames, sliders and wide pictures say what they are.
window.addEventListener("load", () => {
  const article = document.querySelector(".bd-article");
  if (!article) return;
  // pandas' styled tables look as its plain ones do, in the dark too.
  for (const table of article.querySelectorAll("table[id^='T_']")) table.classList.add("dataframe");
  for (const picture of article.querySelectorAll("img")) {
    if (picture.naturalWidth < 2 * picture.naturalHeight || picture.naturalWidth < 700) continue;
    if (picture.closest(".frames, .leaflet-container, a")) continue;
    const box = Object.assign(document.createElement("div"), { className: "wide-picture" });
    picture.replaceWith(box);
    box.append(picture);
  }
  // What a cell says at length would be a word wide and a screen tall on a phone.
  for (const cell of article.querySelectorAll("td"))
    cell.classList.toggle("long", cell.textContent.trim().length > 40);
  // Sphinx calls the references a list, and its entries no items.
  for (const entry of article.querySelectorAll(".citation-list > .citation")) entry.role = "listitem";
  for (const frame of article.querySelectorAll("iframe:not([title])"))
    frame.title = "A map to zoom and pan";
  const reach = () => {
    for (const box of article.querySelectorAll("table, pre, .cell_output, .output, .math, .wide-picture, .pst-scrollable-table-container")) {
      const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible";
      if (scrolls && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  };
  reach();
  window.addEventListener("resize", reach);
  // In the other theme a table may be wider.
  new MutationObserver(reach).observe(document.documentElement, { attributeFilter: ["data-theme"] });
});
