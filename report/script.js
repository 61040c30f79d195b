"use strict";
// What hover, focus and the switches need; without it the page says all the rest.
(function () {
  var known = JSON.parse(document.getElementById("maps").textContent);
  var said = document.getElementById("said");
  document.body.classList.add("live");

  Array.prototype.forEach.call(document.querySelectorAll("svg[data-map]"), function (svg) {
    var map = known[svg.getAttribute("data-map")];
    if (!map) return;
    var stage = svg.parentNode, tip = stage.querySelector(".tip"), ring = svg.querySelector(".ring");
    var points = Array.prototype.map.call(svg.querySelectorAll(".points path"), function (path) {
      var at = /^M(-?[\d.]+) (-?[\d.]+)/.exec(path.getAttribute("d"));
      return { n: +path.getAttribute("data-n"), x: +at[1], y: +at[2], group: path.parentNode };
    });
    var here = null;

    function seen() {
      return points.filter(function (p) { return !p.group.classList.contains("off"); });
    }
    function line(name, text) {
      var element = document.createElement(name);
      element.textContent = text;
      tip.appendChild(element);
    }
    function hide() { tip.hidden = true; ring.setAttribute("d", ""); }
    function show(point, aloud) {
      here = point;
      ring.setAttribute("d", "M" + (point.x - 6) + " " + point.y + "a6 6 0 1 0 12 0a6 6 0 1 0-12 0");
      tip.textContent = "";
      var image = map.images[map.image[point.n]];
      if (image) {
        var img = document.createElement("img");
        img.src = image;
        img.alt = "";
        tip.appendChild(img);
      }
      line("b", map.ids[point.n]);
      if (map.texts[point.n]) line("span", map.texts[point.n]);
      line("i", " " + map.kinds[map.kind[point.n]]);
      tip.hidden = false;
      var box = svg.viewBox.baseVal, scale = svg.clientWidth / box.width;
      var x = point.x * scale, y = point.y * scale;
      tip.style.left = Math.max(0, Math.min(x + 12, stage.clientWidth - tip.offsetWidth)) + "px";
      var above = y - tip.offsetHeight - 12;
      tip.style.top = (above < 0 ? y + 14 : above) + "px";
      if (aloud) said.textContent = map.ids[point.n] + ". " + (map.texts[point.n] || "") + " " + map.kinds[map.kind[point.n]];
    }
    function nearest(x, y) {
      var best = null, least = 196;
      seen().forEach(function (p) {
        var d = (p.x - x) * (p.x - x) + (p.y - y) * (p.y - y);
        if (d < least) { least = d; best = p; }
      });
      return best;
    }
    function under(event) {
      var frame = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / frame.width;
      var found = nearest((event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale);
      if (found) show(found, false); else hide();
    }
    svg.addEventListener("pointermove", under);
    svg.addEventListener("pointerdown", under);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", function (event) {
      var way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Escape") { hide(); return; }
      if (!way) return;
      event.preventDefault();
      var all = seen(), best = null, least = Infinity;
      if (!all.length) return;
      if (!here || here.group.classList.contains("off")) { show(all[0], true); return; }
      all.forEach(function (p) {
        var dx = p.x - here.x, dy = p.y - here.y, on = dx * way[0] + dy * way[1], off = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        if (p === here || on <= 0 || off > 2 * on + 4) return;
        if (on + 2 * off < least) { least = on + 2 * off; best = p; }
      });
      show(best || here, true);
    });

    var switches = stage.parentNode.querySelectorAll(".switches button");
    Array.prototype.forEach.call(switches, function (button) {
      button.addEventListener("click", function () {
        var on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", on ? "true" : "false");
        svg.querySelector('.points[data-kind="' + button.getAttribute("data-kind") + '"]').classList.toggle("off", !on);
        hide();
      });
    });
  });
})();
