"use strict";
// On a phone each row of the admin's lists is a card, see admin.css: its cells say which column they are of.

for (const table of document.querySelectorAll("#result_list, #served table")) {
  const titles = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
  const roles = [["rowgroup", "thead, tbody"], ["row", "tr"], ["columnheader", "thead th"], ["rowheader", "tbody th"], ["cell", "td"]];
  table.setAttribute("role", "table"); // laid out as cards it would be none
  for (const [role, selector] of roles) table.querySelectorAll(selector).forEach((element) => element.setAttribute("role", role));
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, place) => {
      cell.dataset.label = titles[place] || "";
      cell.classList.toggle("nothing", cell.textContent.trim() === "-"); // Django's word for an empty cell
    });
  }
}
