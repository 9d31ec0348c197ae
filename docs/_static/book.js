// A figure is as wide as the page; a click shows it at its own size, in a box that scrolls.
document.addEventListener("click", (event) => {
  if (event.target.matches("article img")) event.target.classList.toggle("large");
});
