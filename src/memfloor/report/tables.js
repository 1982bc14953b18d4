// A long table stands in a box of its own, with a field that hides the rows which do not hold every word typed.
for (const box of document.querySelectorAll(".long")) {
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "Only rows with ...";
  field.setAttribute("aria-label", "Only rows with these words");
  const count = document.createElement("span");
  const rows = [...box.querySelectorAll("tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = ` ${shown} of ${rows.length} rows`;
  };
  field.addEventListener("input", show);
  show();
  const line = document.createElement("p");
  line.className = "soft";
  line.append(field, count);
  box.before(line);
}
