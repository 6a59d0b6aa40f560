// The viewer of a report, by NiiVue: truth, generated, their difference, the samples' spread and the probability of a
// change side by side, linked.
// Everything it shows is in the page; it loads nothing from elsewhere.
"use strict";
(() => {
  const GROUND = [14 / 255, 19 / 255, 24 / 255, 1];
  // Colours from one end of a scale to the other; differences are dark in the middle, as scans lie on a dark ground.
  const SCALES = {
    intensity: [[0, 0, 0], [255, 255, 255]],
    difference: [[150, 220, 255], [38, 122, 205], [14, 19, 24], [205, 92, 40], [255, 214, 140]],
    spread: [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]],
  };
  const METHODS = { "sample-1": "sample" }; // as the tables call it
  const NAMES = { estimate: "estimate", "copy-last": "copy-last" };
  const PANES = ["truth", "generated", "difference", "spread", "probability"]; // the last two: of several samples
  const byId = (id) => document.getElementById(id);
  const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const { views, timeUnit } = JSON.parse(byId("views").textContent);
  const state = { view: 0, shown: "estimate", time: 0, slice: 0, zoom: 1 };
  const viewers = {};
  let isReady = false; // what the reader does from then on goes into the address
  let turn = 0; // of loading: a request that is overtaken by a later one is not shown

  const current = () => views[state.view];
  const capital = (text) => text[0].toUpperCase() + text.slice(1);
  const nameOf = (shown) =>
    NAMES[shown] || (shown === "mean" ? `mean of ${current().samples}` : shown.replace("-", " "));

  function scaleOf(pane) {
    const view = current();
    if (pane === "difference") return { name: "difference", low: -view.differenceTop, high: view.differenceTop };
    if (pane === "spread") return { name: "spread", low: 0, high: view.spreadTop };
    if (pane === "probability") return { name: "spread", low: 0, high: 1 };
    return { name: "intensity", low: 0, high: 1 };
  }

  function quantityOf(pane) {
    return { generated: state.shown, difference: `difference-${state.shown}` }[pane] || pane;
  }

  function drawScale(pane) {
    const { name, low, high } = scaleOf(pane);
    const [first, bar, last] = byId(`pane-${pane}`).querySelector(".scale").children;
    const exact = pane !== "difference" && pane !== "spread";
    first.textContent = exact || low === 0 ? fixed(low, 0) : fixed(low, 2);
    last.textContent = exact ? fixed(high, 0) : (pane === "difference" ? "+" : "") + fixed(high, 2);
    bar.style.background = `linear-gradient(to right, ${SCALES[name].map((rgb) => `rgb(${rgb})`).join(", ")})`;
  }

  async function load(panes) {
    const mine = ++turn;
    const view = current();
    const images = await Promise.all(
      panes.map((pane) => {
        const { name, low, high } = scaleOf(pane);
        const base64 = byId(`volume-${state.view}-${quantityOf(pane)}`).textContent;
        const look = { colormap: name, cal_min: low, cal_max: high };
        return niivue.NVImage.loadFromBase64({ base64, name: `${pane}.nii.gz`, ...look });
      }),
    );
    if (mine !== turn) return;
    panes.forEach((pane, number) => {
      const viewer = viewers[pane];
      while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
      viewer.addVolume(images[number]);
      drawScale(pane);
    });
    byId("title-generated").textContent = capital(nameOf(state.shown));
    byId("title-spread").textContent = `Spread of ${view.samples} samples`;
    place();
  }

  function openView() {
    const view = current();
    const [width, height, depth] = view.shape.map((size, axis) => size * view.spacing[axis]);
    if (!view.shown.includes(state.shown)) state.shown = view.shown[0];
    for (const radio of document.getElementsByName("shown")) {
      radio.parentElement.hidden = !view.shown.includes(radio.value);
      if (radio.value === "mean") radio.parentElement.lastChild.textContent = ` mean of ${view.samples}`;
    }
    for (const pane of PANES.slice(3)) byId(`pane-${pane}`).hidden = !view.spread;
    for (const pane of PANES) byId(`pane-${pane}`).querySelector(".ground").style.aspectRatio = `${width} / ${height}`;
    byId("time").max = view.frames.length - 1;
    byId("time").disabled = view.frames.length < 2;
    byId("slice").max = view.shape[2];
    byId("slice").disabled = depth === 0 || view.shape[2] < 2;
    setPan([0, 0, 0, 1]);
    state.time = Math.min(state.time, view.frames.length - 1);
    state.slice = Math.min(state.slice, view.shape[2] - 1);
    return load(view.spread ? PANES : PANES.slice(0, 3));
  }

  // Puts frame, slice and zoom into all panes, and says in words what they show.
  function place() {
    const view = current();
    for (const viewer of Object.values(viewers)) {
      if (!viewer.volumes.length) continue;
      viewer.scene.crosshairPos[2] = (state.slice + 0.5) / view.shape[2];
      if (viewer.volumes[0].frame4D === state.time) viewer.drawScene();
      else viewer.setFrame4D(viewer.volumes[0].id, state.time);
    }
    const frame = view.frames[state.time];
    const when = `frame ${frame.frame}, time ${+frame.time.toPrecision(12)}`;
    const said = { time: when, slice: `${state.slice + 1} of ${view.shape[2]}`, zoom: `${state.zoom} ×` };
    for (const [name, text] of Object.entries(said)) {
      byId(`${name}-value`).textContent = text;
      byId(name).setAttribute("aria-valuetext", text);
    }
    byId("time").value = state.time;
    byId("slice").value = state.slice + 1;
    byId("zoom").value = state.zoom;
    byId("view").selectedIndex = state.view;
    for (const radio of document.getElementsByName("shown")) radio.checked = radio.value === state.shown;
    describe(frame, when);
    remember();
  }

  function describe(frame, when) {
    const scores = current().shown.map((shown) => [nameOf(shown), frame.psnr[METHODS[shown] || nameOf(shown)]]);
    const psnr = scores.filter(([, value]) => value !== undefined).map(([name, value]) => `${name}: ${fixed(value, 2)}`);
    const values = Object.entries(viewers)
      .filter(([, viewer]) => viewer.volumes.length)
      .map(([pane, viewer]) => {
        const value = viewer.volumes[0].getValue(...viewer.frac2vox(viewer.scene.crosshairPos), state.time);
        return `${pane}: ${pane === "difference" && value > 0 ? "+" : ""}${fixed(value, 3)}`;
      });
    byId("reading").textContent =
      `${capital(when)} in ${timeUnit}. ` +
      (psnr.length ? `PSNR of the frame, dB – ${psnr.join(", ")}. ` : "") +
      `At the crosshair – ${values.join(", ")}.`;
  }

  let remembering = 0;
  function remember() {
    if (!isReady) return;
    clearTimeout(remembering); // browsers bear only so many changes of an address in a while
    remembering = setTimeout(() => {
      const address = { view: current().name, show: state.shown, t: current().frames[state.time].frame, z: state.slice + 1 };
      history.replaceState(null, "", `#${new URLSearchParams(address)}`);
    }, 250);
  }

  // Takes the view from the address; true if there was one.
  function recall() {
    const address = new URLSearchParams(location.hash.slice(1));
    const view = views.findIndex((each) => each.name === address.get("view"));
    if (view < 0) return false;
    const { frames, shape } = views[view];
    const frame = frames.findIndex((each) => String(each.frame) === address.get("t"));
    const slice = Number.parseInt(address.get("z"), 10);
    state.view = view;
    state.shown = address.get("show") || state.shown;
    state.time = Math.max(frame, 0);
    state.slice = slice >= 1 && slice <= shape[2] ? slice - 1 : Math.floor(shape[2] / 2);
    return true;
  }

  function step(slider, by) {
    const input = byId(slider);
    input.value = Number(input.value) + by;
    input.dispatchEvent(new Event("input"));
  }

  function show(shown) {
    if (!current().shown.includes(shown)) return;
    state.shown = shown;
    load(["generated", "difference"]);
  }

  // The next of the samples; one that is not shown yet begins with the first.
  function showNext(kind) {
    const all = current().shown.filter((shown) => shown.startsWith(kind));
    if (all.length) show(all[(all.indexOf(state.shown) + 1) % all.length]);
  }

  const KEYS = {
    "[": () => step("time", -1),
    "]": () => step("time", 1),
    ",": () => step("slice", -1),
    ".": () => step("slice", 1),
    1: () => show(current().shown[0]),
    2: () => showNext("sample"),
    3: () => show("copy-last"),
    0: () => {
      setPan([0, 0, 0, 1]);
      place();
    },
  };

  const PICTURE_KEYS = { ArrowLeft: KEYS["["], ArrowRight: KEYS["]"], ArrowDown: KEYS[","], ArrowUp: KEYS["."] };

  // What is under the crosshair stays where it is.
  function zoomTo(zoom) {
    const { scene } = viewers.truth;
    const crosshair = viewers.truth.frac2mm(scene.crosshairPos);
    const pan = [0, 1, 2].map((axis) => scene.pan2Dxyzmm[axis] + (state.zoom - zoom) * crosshair[axis]);
    setPan([...pan, zoom]);
    place();
  }

  function setPan(pan) {
    state.zoom = pan[3];
    for (const viewer of Object.values(viewers)) viewer.scene.pan2Dxyzmm = [...pan];
  }

  function listen() {
    const whole = byId("viewer");
    byId("view").addEventListener("change", (event) => {
      state.view = event.target.selectedIndex;
      state.slice = Math.floor(current().shape[2] / 2);
      openView();
    });
    for (const radio of document.getElementsByName("shown")) radio.addEventListener("change", () => show(radio.value));
    const sliders = {
      time: (value) => {
        state.time = value;
        place();
      },
      slice: (value) => {
        state.slice = value - 1;
        place();
      },
      zoom: zoomTo,
    };
    for (const [name, set] of Object.entries(sliders)) {
      byId(name).addEventListener("input", (event) => set(Number(event.target.value)));
    }
    window.addEventListener("hashchange", () => {
      if (!recall()) return;
      openView();
      whole.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    });
    // NiiVue would take keys, the wheel and swipes from the page, and change the frame or the contrast of one pane alone.
    const press = (event) => {
      const isPicture = event.target.tagName === "CANVAS";
      if (isPicture) event.stopPropagation();
      const isCommand = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
      const act = KEYS[event.key] || (isPicture && PICTURE_KEYS[event.key]);
      if (event.type === "keyup" || isCommand || event.target.tagName === "SELECT" || !act) return;
      event.preventDefault();
      act();
    };
    whole.addEventListener("keydown", press, { capture: true });
    whole.addEventListener("keyup", press, { capture: true });
    const panes = whole.querySelector(".panes");
    const keep = (event) => event.stopPropagation();
    for (const kind of ["touchstart", "touchmove", "touchend", "touchcancel", "dblclick"]) {
      panes.addEventListener(kind, keep, { capture: true, passive: true });
    }
    const wheel = (event) => {
      event.stopPropagation();
      if (!event.ctrlKey) return;
      event.preventDefault();
      step("zoom", event.deltaY < 0 ? 0.25 : -0.25);
    };
    panes.addEventListener("wheel", wheel, { capture: true, passive: false });
  }

  async function start() {
    const whole = byId("viewer");
    whole.hidden = false; // NiiVue measures its canvases
    for (const pane of PANES) {
      const viewer = new niivue.Niivue({
        logLevel: "error",
        loadingText: "",
        backColor: GROUND,
        crosshairColor: [0.55, 0.8, 1, 0.55],
        crosshairWidth: 0.4,
        crosshairWidthUnit: "percent",
        dragMode: niivue.DRAG_MODE.pan,
        sliceType: niivue.SLICE_TYPE.AXIAL,
        isOrientationTextVisible: false,
        isNearestInterpolation: true,
        isRadiologicalConvention: false,
        isAntiAlias: false,
        dragAndDropEnabled: false,
        viewModeHotKey: "",
        clipPlaneHotKey: "",
        cycleClipPlaneHotKey: "",
      });
      await viewer.attachToCanvas(byId(`pane-${pane}`).querySelector("canvas"));
      viewers[pane] = viewer;
    }
    for (const [name, colours] of Object.entries(SCALES)) {
      const places = colours.map((_, number) => Math.round((255 * number) / (colours.length - 1)));
      const [R, G, B] = [0, 1, 2].map((channel) => colours.map((rgb) => rgb[channel]));
      viewers.truth.addColormap(name, { R, G, B, A: colours.map(() => 255), I: places });
    }
    for (const viewer of Object.values(viewers)) {
      viewer.broadcastTo(Object.values(viewers).filter((other) => other !== viewer), { "2d": true });
      viewer.onLocationChange = () => {
        if (viewer.canvas !== document.activeElement) return; // it was moved by us or by another pane
        const depth = current().shape[2];
        state.slice = Math.min(depth - 1, Math.max(0, Math.floor(viewer.scene.crosshairPos[2] * depth)));
        place();
      };
    }
    state.view = Math.max(0, views.findIndex((view) => view.name.endsWith(".median"))); // the best would flatter
    const isLinked = recall();
    if (!isLinked) state.slice = Math.floor(current().shape[2] / 2);
    listen();
    await openView();
    isReady = true;
    byId("no-viewer").hidden = true;
    if (isLinked) whole.scrollIntoView();
  }

  start().catch((error) => {
    byId("viewer").hidden = true;
    const has = document.createElement("canvas").getContext("webgl2");
    const why = has ? `it stopped (${error.message})` : "this browser offers no WebGL2";
    byId("no-viewer").hidden = false;
    byId("no-viewer").textContent = `The viewer is not shown: ${why}. The still pictures below show some of the frames.`;
  });
})();
