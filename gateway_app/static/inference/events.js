"use strict";
// What happened of late: the event log of the gateway's page.

(() => {
  function paint({ events }) {
    const list = document.getElementById("events");
    while (list.children.length > events.length) list.lastElementChild.remove();
    while (list.children.length < events.length) list.append(document.getElementById("event-template").content.cloneNode(true));
    events.toReversed().forEach((event, place) => {
      const item = list.children[place];
      const { kind, icon } = ModelTable.STATES[event.after] || { kind: "quiet", icon: "off" };
      Live.badge(item, "after", kind, icon);
      Live.fill(item, { ...event, age: `${Live.duration(event.age_s)} ago` });
      item.querySelector("time").dateTime = event.at;
      item.querySelector("time").title = new Date(event.at).toLocaleString();
    });
    document.getElementById("events-section").hidden = events.length === 0;
  }

  document.addEventListener("stats", ({ detail }) => paint(detail));
})();
