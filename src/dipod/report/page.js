"use strict";
(() => {
  const $ = (selector, inside = document) => inside.querySelector(selector);
  const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const root = document.documentElement, dialog = $("dialog"), tip = $("#tip");
  const SCALE = 2000, MOST_ZOOM = 50;
  root.classList.add("scripted");

  // Theme: the system's, until the reader chooses.
  const stored = { get: () => { try { return localStorage.getItem("dipod-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("dipod-theme", value); } catch { /* private windows */ } } };
  if (stored.get()) root.dataset.theme = stored.get();
  $("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    stored.set(root.dataset.theme);
  });

  // Tables: a click on a head sorts by its column, numbers as numbers, empty cells last.
  const compare = (a, b) => (a === "") - (b === "") || (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  for (const head of $$(".sortable thead th")) head.addEventListener("click", () => {
    const order = head.ariaSort === "ascending" ? "descending" : "ascending", body = head.closest("table").tBodies[0];
    for (const other of head.parentNode.cells) other.ariaSort = "none";
    head.ariaSort = order;
    const key = (row) => row.cells[head.cellIndex].dataset.key;
    body.append(...[...body.rows].sort((a, b) =>
      key(a) === "" || key(b) === "" || order === "ascending" ? compare(key(a), key(b)) : compare(key(b), key(a))));
  });

  // Legend: a click hides or shows a label everywhere.
  for (const button of $$(".legend button")) button.addEventListener("click", () => {
    const shown = button.ariaPressed === "false";
    button.ariaPressed = String(shown);
    for (const group of $$(`.series[data-name="${button.dataset.name}"]`)) group.classList.toggle("off", !shown);
  });

  // Axes: from shares of the plot to values and back; a logarithmic one with values at zero is straight around it.
  const STRAIGHT = { f: (v) => v, g: (u) => u };
  const scale = ({ log, linear, near }) => !log ? STRAIGHT : !linear ? { f: Math.log10, g: (u) => 10 ** u } : {
    f: (v) => Math.sign(v) * (Math.abs(v) <= linear ? near * Math.abs(v) / linear : near + Math.log10(Math.abs(v) / linear)),
    g: (u) => Math.sign(u) * (Math.abs(u) <= near ? linear * Math.abs(u) / near : linear * 10 ** (Math.abs(u) - near)) };
  const value = ([low, high], { f, g }, share) => g(f(low) + (f(high) - f(low)) * share);
  const share = ([low, high], { f }, at) => (f(at) - f(low)) / (f(high) - f(low));
  const text = (number, digits = 4) => Math.abs(number) >= 1000 && Math.abs(number) < 1e6
    ? number.toLocaleString("en", { minimumFractionDigits: digits - 4, maximumFractionDigits: digits - 4 }) : String(+number.toPrecision(digits));
  function texts(numbers) {
    const digits = [4, 5, 6, 7, 8, 9, 10, 11, 12].find((d) => new Set(numbers.map((n) => text(n, d))).size === numbers.length);
    return numbers.map((n) => text(n, digits));
  }
  function decades(low, high, count) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const parts = high / low < 300 ? [1, 2, 5] : [1], every = Math.ceil((last - first + 1) / (count + 1));
    const powers = Array.from({ length: last - first + 1 }, (_, i) => first + i).filter((d) => d % every === 0);
    return powers.flatMap((d) => parts.map((part) => part * 10 ** d)).filter((at) => at >= low && at <= high);
  }
  function ticks(low, high, { log, linear }, count) {
    if (linear && high > linear) {
      const below = low < -linear ? decades(linear, -low, 2).map((at) => -at).reverse() : [];
      const above = decades(Math.max(linear, low), high, count).filter((at) => at > 1.5 * linear);
      return [...below, ...(low <= 0 ? [0] : []), ...(low <= linear ? [linear] : []), ...above];
    }
    if (log && !linear && high / low > 5) return decades(low, high, count);
    const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough * 0.999);
    const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
    return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => (first + i) * step);
  }

  // A figure's parts: its values, its plotting area, and what of it is seen.
  const parts = (plot) => ({ svg: $("svg", plot), area: $("svg.area", plot), data: JSON.parse($(".values", plot).textContent) });
  function range({ area, data }) {
    const v = area.viewBox.baseVal;
    return { x: [v.x, v.x + v.width].map((at) => value(data.x, STRAIGHT, at / SCALE)),
      y: [v.y + v.height, v.y].map((at) => value(data.y, scale(data), 1 - at / SCALE)) };
  }
  function frame(figure, width, height) {
    const { svg, area, data } = figure, left = 66, top = 10, right = width - 14, bottom = height - 44;
    const make = (name, attributes, words) => {
      const made = document.createElementNS(svg.namespaceURI, name);
      for (const [key, setting] of Object.entries(attributes)) made.setAttribute(key, setting);
      made.textContent = words || "";
      return made;
    };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const [key, size] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) area.setAttribute(key, size);
    const seen = range(figure), lines = [], up = ticks(...seen.y, data, Math.max(3, height / 80)), words = texts(up);
    for (const [i, at] of up.entries()) {
      const y = bottom - (bottom - top) * share(seen.y, scale(data), at);
      lines.push(make("path", { d: `M${left} ${y}H${right}` }), make("text", { class: "up", x: left - 6, y: y + 4 }, words[i]));
    }
    const steps = ticks(...seen.x, {}, Math.max(3, width / 120)), names = texts(steps);
    for (const [at, words] of data.ticks.length ? data.ticks : steps.map((at, i) => [at, names[i]])) {
      const x = left + (right - left) * share(seen.x, STRAIGHT, at);
      if (x >= left && x <= right) lines.push(make("text", { class: "tick", x, y: bottom + 16 }, words));
    }
    $(".axes", svg).replaceChildren(...lines);
    const title = $(".across", svg);
    title.setAttribute("x", (left + right) / 2);
    title.setAttribute("y", height - 6);
  }

  // Values under the pointer.
  function place(plot, event) {
    const figure = parts(plot), box = figure.svg.getBoundingClientRect(), { area } = figure;
    const zoom = box.width / figure.svg.viewBox.baseVal.width;
    const [x, y, width, height] = ["x", "y", "width", "height"].map((key) => area[key].baseVal.value);
    return { figure, zoom, top: y * zoom, height: height * zoom, left: x * zoom, width: width * zoom,
      u: ((event.clientX - box.left) / zoom - x) / width, v: ((event.clientY - box.top) / zoom - y) / height };
  }
  const nearest = (list, at) => list.reduce((best, x, i) => Math.abs(x - at) < Math.abs(list[best] - at) ? i : best, 0);
  function hover(plot, event) {
    const where = place(plot, event), { data, svg } = where.figure, seen = range(where.figure).x;
    const shown = data.series.filter((s) => s.x.length && !$(`.series[data-name="${s.name}"].off`, svg));
    if (!shown.length || where.u < -0.05 || where.u > 1.05) return leave(plot);
    const at = value(seen, STRAIGHT, where.u), all = shown.map((s) => s.x[nearest(s.x, at)]), step = all[nearest(all, at)];
    const head = document.createElement("b");
    head.textContent = `${data.across} ${data.ticks.length ? data.ticks[step][1] : text(step)}`;
    const rows = shown.flatMap((s) => {
      const i = nearest(s.x, step), row = document.createElement("div"), colour = document.createElement("i");
      if (Math.abs(s.x[i] - step) > (data.x[1] - data.x[0]) / 30) return [];
      colour.style.background = `var(--${s.name})`;
      row.append(colour, `${s.label}: ${text(s.y[i])}${s.low ? ` (${text(s.low[i])} to ${text(s.high[i])})` : ""}`);
      return [row];
    });
    tip.replaceChildren(head, ...rows);
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), gap = 14;
    tip.style.left = `${event.clientX + gap + box.width < innerWidth ? event.clientX + gap : Math.max(4, event.clientX - gap - box.width)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + gap, innerHeight - box.height - 4))}px`;
    const guide = $(".guide", plot) || plot.appendChild(Object.assign(document.createElement("div"), { className: "guide" }));
    const x = where.left + where.width * share(seen, STRAIGHT, step);
    Object.assign(guide.style, { left: `${x}px`, top: `${where.top}px`, height: `${where.height}px` });
  }
  function leave(plot) { tip.hidden = true; $(".guide", plot)?.remove(); }
  for (const plot of $$("figure .plot")) {
    plot.addEventListener("pointermove", (event) => hover(plot, event));
    plot.addEventListener("pointerleave", () => leave(plot));
    const enlarge = () => open(plot.closest("figure"));
    plot.addEventListener("click", enlarge);
    $(".enlarge", plot.closest("figure")).addEventListener("click", enlarge);
  }

  // The large figure: wheel, buttons and keys zoom, dragging moves.
  let big = null, held = null;
  const redraw = () => frame(big.figure, big.plot.clientWidth, big.plot.clientHeight);
  function open(figure) {
    const plot = $(".plot", figure).cloneNode(true), old = $(".plot", dialog);
    leave(figure);
    $(".guide", plot)?.remove();
    $("b", dialog).textContent = $("figcaption", figure).dataset.name;
    old.replaceWith(plot);
    big = { plot, figure: parts(plot) };
    plot.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; plot.setPointerCapture(event.pointerId); });
    plot.addEventListener("pointerup", () => { held = null; });
    plot.addEventListener("pointermove", (event) => held ? drag(event) : hover(plot, event));
    plot.addEventListener("pointerleave", () => leave(plot));
    plot.addEventListener("wheel", (event) => { event.preventDefault(); const { u, v } = place(plot, event); zoom(event.deltaY < 0 ? 1.25 : 0.8, u, v); }, { passive: false });
    dialog.showModal();
    dialog.append(tip);
    redraw();
  }
  function see(x, y, size) {
    const within = (at) => Math.min(Math.max(at, 0), SCALE - size);
    big.figure.area.setAttribute("viewBox", `${within(x)} ${within(y)} ${size} ${size}`);
    leave(big.plot);
    redraw();
  }
  function zoom(factor, u = 0.5, v = 0.5) {
    const now = big.figure.area.viewBox.baseVal, size = Math.min(Math.max(now.width / factor, SCALE / MOST_ZOOM), SCALE);
    see(now.x + u * (now.width - size), now.y + v * (now.height - size), size);
  }
  function move(dx, dy) { const v = big.figure.area.viewBox.baseVal; see(v.x + dx * v.width, v.y + dy * v.height, v.width); }
  function drag(event) {
    const { width, height } = place(big.plot, event), [x, y] = held;
    held = [event.clientX, event.clientY];
    move((x - event.clientX) / width, (y - event.clientY) / height);
  }
  const actions = { in: () => zoom(1.5), out: () => zoom(1 / 1.5), whole: () => see(0, 0, SCALE), close: () => dialog.close() };
  const keys = { "+": actions.in, "-": actions.out, 0: actions.whole, ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0),
    ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1) };
  for (const button of $$("dialog [data-action]")) button.addEventListener("click", actions[button.dataset.action]);
  dialog.addEventListener("keydown", (event) => { if (keys[event.key]) { event.preventDefault(); keys[event.key](); } });
  dialog.addEventListener("close", () => { document.body.append(tip); tip.hidden = true; big = null; });
  addEventListener("resize", () => { if (big) { leave(big.plot); redraw(); } });
  addEventListener("beforeprint", () => $$("details").forEach((details) => { details.open = true; }));

  // A run that is still going: look again, unless something is being looked at.
  const seconds = Number(root.dataset.refresh);
  if (seconds) setInterval(() => { if (!dialog.open) location.reload(); }, 1000 * seconds);
})();
