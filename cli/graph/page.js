// Search and zoom; the page is complete without.
const search = document.querySelector("input");
const svg = document.querySelector("svg.graph");
search.parentElement.hidden = false;
search.addEventListener("input", () => {
  const word = search.value.toLowerCase();
  for (const node of document.querySelectorAll("svg.graph g[id], tbody tr"))
    node.classList.toggle("other", word !== "" && !node.textContent.toLowerCase().includes(word));
});
const full = svg.viewBox.baseVal;
let scale = 1;
const zoom = (by) => {
  scale = Math.min(8, Math.max(0.05, scale * by));
  svg.setAttribute("width", full.width * scale);
  svg.setAttribute("height", full.height * scale);
};
svg.parentElement.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
}, { passive: false });
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => zoom(Number(button.value)));
