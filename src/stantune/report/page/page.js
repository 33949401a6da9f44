// Draws the pictures, and fills, sorts and filters the tables, from the numbers that are in the page.
"use strict";
(() => {
  const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
  const numbers = parsed("numbers");
  const PAGE = 50;

  // The counterpart of `resolved` in figures.py.
  const resolved = (part) => {
    if (Array.isArray(part)) return part.map(resolved);
    if (part === null || typeof part !== "object") return part;
    if (!("column" in part)) return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, resolved(value)]));
    const names = part.column.split(".");
    let column = names.reduce((found, name) => found[name], numbers);
    if ("of" in part) {
      let places = resolved({ column: part.of });
      if ("where" in part) {
        const status = resolved({ column: part.status });
        places = places.filter((place) => status[place] === part.where);
      }
      column = names.at(-1) === "sample" ? places : places.map((place) => column[place]);
    }
    return part.log ? column.map((value) => Math.log10(value)) : column;
  };

  const shown = (value) => (value === null || value === undefined ? "–" : typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : String(value));
  const ofParameter = (parameter, trial) => {
    const value = parameter.values[trial];
    return value === null ? null : parameter.kind === "categorical" ? parameter.choices[value] : value;
  };
  const setting = (search, trial) =>
    search.trials.params.filter((each) => each.values[trial] !== null).map((each) => `${each.name}=${shown(ofParameter(each, trial))}`).join(", ");

  function tableOf(search, place) {
    const host = document.getElementById(`trials-${place}`);
    const trials = search.trials;
    const columns = [
      ["trial", (trial) => trial],
      ["status", (trial) => trials.status[trial]],
      ["bracket", (trial) => trials.bracket[trial]],
      [`${search.summary.unit}s`, (trial) => trials.reached[trial]],
      [search.summary.metric.name, (trial) => trials.value[trial]],
      ["seconds", (trial) => trials.seconds[trial]],
      ...trials.params.map((each) => [each.name, (trial) => ofParameter(each, trial)]),
    ];
    const all = trials.status.map((_, trial) => trial);
    const sign = search.summary.metric.direction === "minimize" ? 1 : -1;
    let order = { column: 4, sign }, page = 0, chosen = all;

    const tools = document.createElement("p");
    tools.className = "tools";
    const search_ = document.createElement("input");
    search_.type = "search";
    const status = document.createElement("select");
    for (const each of ["all", ...new Set(trials.status)]) status.append(new Option(each, each));
    for (const [text, field] of [["Find ", search_], [" Status ", status]]) {
      const label = document.createElement("label");
      label.append(text, field);
      tools.append(label);
    }
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "trials");
    const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    scroll.append(table);
    const pager = document.createElement("p"), before = document.createElement("button"), after = document.createElement("button"), where = document.createElement("span");
    pager.className = "pager";
    before.textContent = "Previous";
    after.textContent = "Next";
    where.setAttribute("aria-live", "polite");
    pager.append(before, " ", after, " ", where);
    host.replaceChildren(tools, scroll, pager);

    const heads = columns.map(([name], column) => {
      const cell = document.createElement("th"), button = document.createElement("button");
      cell.scope = "col";
      button.type = "button";
      button.addEventListener("click", () => {
        order = { column, sign: order.column === column ? -order.sign : 1 };
        sort();
      });
      cell.append(button);
      head.append(cell);
      return [cell, button, name];
    });
    const compare = (left, right) => (typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right)));
    function sort() {
      const of = columns[order.column][1];
      // What has no value is last, whichever way.
      chosen = [...chosen].sort((left, right) => {
        const [a, b] = [of(left), of(right)];
        if (a === null || b === null) return (a === null) - (b === null) || left - right;
        return order.sign * compare(a, b) || left - right;
      });
      page = 0;
      draw();
    }
    function filter() {
      const text = search_.value.trim().toLowerCase();
      chosen = all.filter(
        (trial) =>
          (status.value === "all" || trials.status[trial] === status.value) &&
          (!text || columns.some(([name, of]) => `${name}=${shown(of(trial))}`.toLowerCase().includes(text))),
      );
      sort();
    }
    function draw() {
      heads.forEach(([cell, button, name], column) => {
        const sorted = order.column === column;
        cell.setAttribute("aria-sort", sorted ? (order.sign > 0 ? "ascending" : "descending") : "none");
        button.textContent = sorted ? `${name} ${order.sign > 0 ? "▲" : "▼"}` : name;
      });
      body.replaceChildren();
      for (const trial of chosen.slice(page * PAGE, (page + 1) * PAGE)) {
        const row = body.insertRow();
        for (const [, of] of columns) {
          const value = of(trial), cell = row.insertCell();
          cell.textContent = shown(value);
          if (typeof value === "number") cell.className = "number";
        }
      }
      const last = Math.min((page + 1) * PAGE, chosen.length);
      where.textContent = chosen.length ? `${page * PAGE + 1} to ${last} of ${chosen.length} trials` : "no trial";
      before.disabled = page === 0;
      after.disabled = last === chosen.length;
    }
    before.addEventListener("click", () => { page -= 1; draw(); });
    after.addEventListener("click", () => { page += 1; draw(); });
    search_.addEventListener("input", filter);
    status.addEventListener("change", filter);
    sort();
  }
  numbers.searches.forEach(tableOf);

  // Cividis: dark is little, light is much, also without colour vision.
  const SCALE = [[0, 34, 78], [64, 78, 107], [125, 124, 120], [188, 175, 111], [254, 232, 56]];
  const bright = (level) => {
    const at = (level / 255) * (SCALE.length - 1), low = Math.min(Math.floor(at), SCALE.length - 2);
    return SCALE[low].map((part, place) => part + (at - low) * (SCALE[low + 1][place] - part));
  };
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  // The colour of a place is made of its bytes, one or several.
  function pixelled(rows, columns, text, color) {
    const canvas = document.createElement("canvas"), values = bytes(text), each = values.length / (rows * columns);
    [canvas.width, canvas.height] = [columns, rows];
    const image = new ImageData(columns, rows);
    for (let place = 0; place < rows * columns; place += 1)
      image.data.set([...color(values.subarray(place * each, (place + 1) * each)), 255], 4 * place);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
  for (const host of document.querySelectorAll(".maps")) {
    const entries = numbers.searches[host.dataset.search].entries, layer = entries.layers[host.dataset.layer], images = entries.images;
    const columns = [
      ["computed", layer.computed, ([there]) => (there ? [31, 59, 87] : [232, 236, 240])],
      ...["exact", "filled", "errors"].map((name) => [name, layer[name], ([level]) => bright(level)]),
    ].map(([name, maps, color]) => [name, maps.map((map) => pixelled(layer.rows, layer.columns, map, color))]);
    if (images) columns.unshift(["image", images.pixels.map((map) => pixelled(images.rows, images.columns, map, (parts) => (parts.length === 3 ? parts : [parts[0], parts[0], parts[0]])))]);
    host.style.gridTemplateColumns = `repeat(${columns.length}, minmax(0, 1fr))`;
    host.append(...columns.map(([name]) => Object.assign(document.createElement("span"), { textContent: name })));
    for (let row = 0; row < layer.exact.length; row += 1) host.append(...columns.map(([, drawn]) => drawn[row]));
  }

  async function library() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  const hosts = [...document.querySelectorAll(".picture")];
  const tried = document.createElement("canvas");
  const tested = tried.getContext("webgl2") || tried.getContext("webgl");
  const fast = Boolean(tested);
  tested?.getExtension("WEBGL_lose_context")?.loseContext();

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const axes = { xaxis: {}, yaxis: {} };
  function themed(layout) {
    const night = dark.matches && !printing;
    const ink = night ? "#e6edf3" : "#1b1f24", line = night ? "#353d47" : "#d0d7de";
    const axis = (own) => ({ automargin: true, gridcolor: line, zerolinecolor: line, linecolor: line, ...own });
    return {
      height: 380,
      margin: { l: 50, r: 10, t: 30, b: 40 },
      legend: { orientation: "h", y: -0.25, traceorder: "normal" },
      hovermode: "closest",
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: night ? "#9aa5b1" : "#57606a", activecolor: ink },
      font: { color: ink, family: "system-ui, sans-serif" },
      ...Object.fromEntries(Object.keys(axes).map((name) => [name, axis(layout[name])])),
    };
  }
  const options = (data) => ({
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    modeBarButtons: [data.some((trace) => trace.type === "parcoords") ? ["toImage"] : ["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  });
  const pictures = parsed("pictures");
  const recolour = (host) => {
    const { font, xaxis, yaxis } = themed({});
    const colors = { "font.color": font.color };
    for (const [name, axis] of Object.entries({ xaxis, yaxis }))
      if (host.layout[name]) for (const part of ["gridcolor", "zerolinecolor", "linecolor"]) colors[`${name}.${part}`] = axis[part];
    return Plotly.relayout(host, colors);
  };
  const scale = (host, box) =>
    Plotly.relayout(host, { [`${box.dataset.axis}.type`]: box.checked ? "log" : "linear", [`${box.dataset.axis}.autorange`]: true });
  const boxesOf = (host) => host.parentElement.querySelectorAll("input[data-axis]");

  // What is in view is drawn first, then, while there is nothing else to do, the rest; printing wants all of it.
  const waiting = new Set(hosts), visible = new Set(), live = new Set(), stilled = new Map();
  let all = 0;

  // A browser keeps no more than 16 WebGL contexts, a picture takes three. So few of these pictures are live; another is
  // an image of itself, with what its user made of it, until it comes into view again.
  const LIVE = 4;
  const heavy = (host) => [...host.querySelectorAll(".gl-container canvas")];
  function still(host) {
    const canvases = heavy(host), image = host.cloneNode(true), kept = { data: host.data, layout: host.layout };
    heavy(image).forEach((copy, place) => copy.getContext("2d").drawImage(canvases[place], 0, 0));
    const { className } = host;
    Plotly.purge(host);
    for (const each of canvases) (each.getContext("webgl2") || each.getContext("webgl"))?.getExtension("WEBGL_lose_context")?.loseContext();
    host.replaceChildren(...image.childNodes);
    host.className = className;
    live.delete(host);
    stilled.set(host, kept);
  }

  async function draw(host) {
    waiting.delete(host);
    const kept = stilled.get(host);
    stilled.delete(host);
    const picture = pictures[host.dataset.picture], data = kept ? kept.data : resolved(picture.data);
    if (!fast && data.some((trace) => trace.type === "parcoords")) {
      host.textContent = "This browser has no WebGL, which this picture needs.";
      return;
    }
    if (!fast || data.every((trace) => (trace.x || []).length < 2000)) for (const trace of data) if (trace.type === "scattergl") trace.type = "scatter";
    host.replaceChildren();
    await Plotly.newPlot(host, data, themed(kept ? kept.layout : picture.layout), options(data));
    live.add(host);
    if (kept) await recolour(host);
    else {
      for (const box of boxesOf(host)) if (box.checked !== box.defaultChecked) scale(host, box);
      document.body.dataset.drawn = all += 1;
    }
    const told = host.parentElement.querySelector(".setting");
    if (told && host.dataset.search !== undefined) {
      const search = numbers.searches[host.dataset.search];
      host.on("plotly_hover", (event) => {
        const trial = event.points[0].customdata;
        if (typeof trial === "number") told.textContent = `trial ${trial} (${search.trials.status[trial]}): ${setting(search, trial)}`;
      });
    }
    const others = [...live].filter((each) => each !== host && heavy(each).length);
    if (heavy(host).length && others.length >= LIVE) still(others.find((each) => !visible.has(each)) || others[0]);
  }

  const idle = () => new Promise((next) => (window.requestIdleCallback ? requestIdleCallback(next, { timeout: 1000 }) : setTimeout(next, 50)));
  const inView = () => [...waiting].find((host) => visible.has(host));
  let working = false, loading;
  async function work() {
    if (working) return;
    working = true;
    try {
      while (waiting.size) {
        // One after the other, so that the page can be read meanwhile.
        if (inView()) await new Promise((next) => setTimeout(next));
        else {
          document.body.dataset.first ??= Math.round(performance.now());
          await idle();
        }
        await (loading ??= library());
        const host = inView() || [...waiting][0];
        if (host) await draw(host);
      }
    } catch (error) {
      if (window.Plotly) throw error;
      for (const host of waiting) host.textContent = "This browser cannot unpack the pictures; one of 2023 or later can.";
      watch.disconnect();
      return;
    } finally {
      working = false;
    }
    document.body.dataset.took ??= Math.round(performance.now());
  }
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      visible[isIntersecting ? "add" : "delete"](target);
      if (isIntersecting && stilled.has(target)) waiting.add(target);
    }
    work();
  });
  for (const host of hosts) {
    watch.observe(host);
    for (const box of boxesOf(host)) box.addEventListener("change", () => live.has(host) && scale(host, box));
  }

  const again = () => live.forEach(recolour);
  dark.addEventListener("change", again);
  addEventListener("beforeprint", async () => {
    printing = true;
    if (!window.Plotly) return;
    again();
    // Images have the colours in which they were drawn.
    for (const host of [...waiting, ...(dark.matches ? stilled.keys() : [])]) await draw(host);
  });
  addEventListener("afterprint", () => {
    printing = false;
    again();
  });
})();
