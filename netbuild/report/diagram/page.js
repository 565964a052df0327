"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { nodes } = JSON.parse(byId("data").textContent);
  const stage = byId("stage"), panel = byId("panel"), search = byId("search"), found = byId("found");
  const net = stage.querySelector("svg");
  const width = net.viewBox.baseVal.width, height = net.viewBox.baseVal.height;
  const shapes = nodes.map((node) => byId(`n${node.index}`));
  const place = new Map(nodes.map((node, k) => [node.index, k]));
  const edges = [...net.querySelectorAll(".edge")].map((shape) => ({
    shape, ends: [place.get(+shape.dataset.from), place.get(+shape.dataset.to)],
  }));
  // Indices into nodes: the one with keyboard focus, the one in the panel (-1: none), the matches of the search.
  let focused = 0, chosen = -1, matches = [], match = -1, zoom = 1;

  const element = (tag, content, className) => {
    const made = document.createElement(tag);
    if (content !== undefined) made.append(content);
    if (className) made.className = className;
    return made;
  };

  // -- zoom and pan ----------------------------------------------------------------------------------------------------

  const setZoom = (value, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const next = Math.min(Math.max(value, 0.02), 8);
    const left = (stage.scrollLeft + x) / zoom, top = (stage.scrollTop + y) / zoom;
    zoom = next;
    net.setAttribute("width", width * zoom);
    net.setAttribute("height", height * zoom);
    stage.scrollLeft = left * zoom - x;
    stage.scrollTop = top * zoom - y;
  };
  const fit = () => setZoom(Math.min(stage.clientWidth / width, stage.clientHeight / height));
  const step = (factor) => () => setZoom(zoom * factor);
  const actions = { larger: step(1.25), smaller: step(0.8), real: () => setZoom(1), fit };
  for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    setZoom(zoom * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });

  let dragStart = null, dragged = false;
  stage.addEventListener("pointerdown", (event) => {
    dragged = false;
    if (event.button === 0 && event.pointerType === "mouse") dragStart = [event.clientX, event.clientY, stage.scrollLeft, stage.scrollTop];
  });
  window.addEventListener("pointermove", (event) => {
    if (!dragStart) return;
    const [x, y, left, top] = dragStart;
    dragged ||= Math.abs(event.clientX - x) + Math.abs(event.clientY - y) > 5;
    if (!dragged) return;
    stage.classList.add("held");
    stage.scrollLeft = left - event.clientX + x;
    stage.scrollTop = top - event.clientY + y;
  });
  window.addEventListener("pointerup", () => { dragStart = null; stage.classList.remove("held"); });

  // -- rows ------------------------------------------------------------------------------------------------------------

  const scrollToNode = (k) => shapes[k].scrollIntoView({ block: "nearest", inline: "nearest" });
  const scrollToCenter = (k) => shapes[k].scrollIntoView({ block: "center", inline: "nearest" });
  const highlight = (k) => {
    net.classList.toggle("lit", k >= 0 && edges.some(({ ends }) => ends.includes(k)));
    shapes.forEach((shape) => shape.classList.remove("linked"));
    for (const { shape, ends } of edges) {
      const on = ends.includes(k);
      shape.classList.toggle("on", on);
      if (on) ends.forEach((end) => shapes[end].classList.add("linked"));
    }
  };
  const focusNode = (k) => {
    shapes[focused].setAttribute("tabindex", "-1");
    focused = k;
    shapes[focused].setAttribute("tabindex", "0");
    shapes[focused].focus({ preventScroll: true });
    scrollToNode(focused);
    if (!panel.hidden) openPanel(focused);
  };

  const section = (title, ...content) => panel.append(element("h3", title), ...content);
  const list = (pairs) => {
    const made = element("dl");
    for (const [label, content] of pairs) made.append(element("dt", label), element("dd", content));
    return made;
  };
  const meter = (label, words, share) => {
    const bar = element("meter");
    bar.value = share;
    bar.title = `${words} of all ${label}`;
    const cell = document.createDocumentFragment();
    cell.append(bar, words);
    return [label, cell];
  };
  const tree = (rows) => {
    const made = element("table"), head = made.createTHead().insertRow(), body = made.createTBody();
    for (const title of ["inside", "module", "output", "params", "FLOPs"]) {
      const cell = element("th", title, title === "params" || title === "FLOPs" ? "right" : "");
      cell.scope = "col";
      head.append(cell);
    }
    for (const [level, ...cells] of rows) {
      const row = body.insertRow();
      cells.forEach((words, i) => row.append(element("td", words, i > 2 ? "right" : "")));
      row.cells[0].style.paddingLeft = `${12 * level}px`;
    }
    return made;
  };
  const openPanel = (k) => {
    const node = nodes[k], close = element("button", "×", "close");
    if (chosen >= 0) shapes[chosen].classList.remove("chosen");
    shapes[(chosen = k)].classList.add("chosen");
    shapes.forEach((shape, i) => shape.setAttribute("aria-expanded", i === k));
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", closePanel);
    panel.replaceChildren(close, element("h2", node.index < 0 ? node.name : `${node.index} ${node.module}`));
    panel.append(list(node.facts));
    if (node.shares.length) section("Share of the whole", list(node.shares.map((share) => meter(...share))));
    if (node.rowText) section(`In the file, ${node.place}`, element("pre", node.rowText));
    for (const [title, url] of node.pictures) {
      const figure = element("figure"), image = element("img");
      image.src = url;
      image.alt = title;
      figure.append(image, element("figcaption", title));
      panel.append(figure);
    }
    if (node.inner.length) section("Inside", tree(node.inner));
    panel.hidden = false;
    panel.scrollTop = 0;
    highlight(k);
  };
  const closePanel = () => {
    panel.hidden = true;
    if (chosen >= 0) {
      shapes[chosen].classList.remove("chosen");
      shapes[chosen].setAttribute("aria-expanded", "false");
      shapes[chosen].focus();
    }
    chosen = -1;
    highlight(-1);
  };

  const moves = {
    ArrowDown: () => focused + 1, ArrowRight: () => focused + 1, ArrowUp: () => focused - 1, ArrowLeft: () => focused - 1,
    Home: () => 0, End: () => nodes.length - 1, PageDown: () => focused + 10, PageUp: () => focused - 10,
  };
  shapes.forEach((shape, k) => {
    shape.setAttribute("role", "button");
    shape.setAttribute("aria-label", nodes[k].label);
    shape.setAttribute("aria-controls", "panel");
    shape.setAttribute("aria-expanded", "false");
    shape.setAttribute("tabindex", k ? "-1" : "0");
    shape.addEventListener("click", () => { if (!dragged) { focusNode(k); openPanel(k); scrollToNode(k); } });
    shape.addEventListener("mouseenter", () => highlight(k));
    shape.addEventListener("mouseleave", () => highlight(chosen));
    shape.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Enter" || event.key === " ") { openPanel(k); scrollToNode(k); }
      else if (moves[event.key]) focusNode(Math.min(Math.max(moves[event.key](), 0), nodes.length - 1));
      else return;
      event.preventDefault();
    });
  });
  for (const link of document.querySelectorAll(".table a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const k = place.get(+link.textContent);
      stage.scrollIntoView({ block: "nearest" });
      focusNode(k);
      openPanel(k);
      scrollToCenter(k);
    });
  }

  // -- search, colour, theme ---------------------------------------------------------------------------------------------

  const isMatch = (node, words) => node.index >= 0
    && (String(node.index) === words || node.name.toLowerCase().includes(words) || node.module.toLowerCase().includes(words));
  const goToMatch = (by) => {
    if (!matches.length) return;
    if (match >= 0) shapes[matches[match]].classList.remove("current");
    match = match < 0 ? (by > 0 ? 0 : matches.length - 1) : (match + by + matches.length) % matches.length;
    const k = matches[match];
    shapes[focused].setAttribute("tabindex", "-1");
    shapes[(focused = k)].setAttribute("tabindex", "0");
    shapes[k].classList.add("current");
    scrollToCenter(k);
    if (!panel.hidden) openPanel(k);
    found.textContent = `${match + 1} of ${matches.length}`;
  };
  const runSearch = () => {
    const words = search.value.trim().toLowerCase();
    matches = words ? nodes.flatMap((node, k) => (isMatch(node, words) ? [k] : [])) : [];
    match = -1;
    shapes.forEach((shape, k) => {
      shape.classList.toggle("hit", matches.includes(k));
      shape.classList.remove("current");
    });
    net.classList.toggle("searched", matches.length > 0);
    found.textContent = !words ? "" : matches.length ? `${matches.length} ${matches.length === 1 ? "match" : "matches"}` : "no match";
  };
  search.addEventListener("input", runSearch);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") goToMatch(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") { search.value = ""; runSearch(); shapes[focused].focus(); event.stopPropagation(); }
  });
  byId("metric").addEventListener("change", (event) => {
    const metric = event.target.value;
    net.dataset.metric = metric;
    shapes.forEach((shape, k) => shape.querySelector(".tint")?.setAttribute("fill-opacity", nodes[k].tint[metric]));
  });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    if (event.key === "Escape" && !panel.hidden) closePanel();
    else if (event.key === "/") { search.focus(); event.preventDefault(); }
    else if (event.key === "+" || event.key === "=") actions.larger();
    else if (event.key === "-") actions.smaller();
    else if (event.key === "0") actions.fit();
    else if (event.key === "1") actions.real();
  });

  // -- printing: the picture is cut between rows into pieces, each of which fits a sheet of paper -------------------------

  const paper = 1.2;  // approximate height over width of a piece
  const makeSheet = (top, bottom) => {
    const made = net.cloneNode(false);
    made.setAttribute("class", "net sheet");
    made.setAttribute("viewBox", `0 ${top} ${width} ${bottom - top}`);
    made.setAttribute("aria-hidden", "true");
    for (const name of ["width", "height", "role", "aria-label"]) made.removeAttribute(name);
    for (const child of net.children) {
      const box = child.getBBox();
      if (box.y >= bottom || box.y + box.height <= top) continue;
      const copy = child.cloneNode(true);
      copy.removeAttribute("id");
      made.append(copy);
    }
    return made;
  };
  const removeSheets = () => {
    document.querySelectorAll(".sheet").forEach((made) => made.remove());
    stage.parentNode.classList.remove("cut");
  };
  window.addEventListener("beforeprint", () => {
    removeSheets();
    const pieces = Math.max(Math.round(height / width / paper), 1), cuts = [0];
    for (const shape of shapes) {
      const top = shape.querySelector(".box").y.baseVal.value - 5;
      if (top >= (cuts.length * height) / pieces) cuts.push(top);
    }
    stage.after(...cuts.map((top, i) => makeSheet(top, cuts[i + 1] ?? height)));
    stage.parentNode.classList.add("cut");
  });
  window.addEventListener("afterprint", removeSheets);
  setZoom(Math.min(1, stage.clientWidth / width));
})();
