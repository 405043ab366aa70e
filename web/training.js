// @ts-check
/**
 * A panel on every training node: the curve of the loss while it trains and afterwards, and the
 * buttons "Save now" and "Stop and keep". Everything it shows is asked of the server, so it is all
 * there again after the page was reloaded.
 */
// @ts-expect-error: served by ComfyUI
import { app } from "../../scripts/app.js";
// @ts-expect-error: served by ComfyUI
import { api } from "../../scripts/api.js";

/**
 * Where a training runs, as `/likeness/training` tells it of all of them by their ids.
 * @typedef {object} Place
 * @property {string} node such as "1:2"
 * @property {string} workflow the id of the graph that it was queued from
 * @property {boolean} running
 */

/**
 * The rest of one training, as `/likeness/training/{id}` tells it.
 * @typedef {object} Rest
 * @property {number} step
 * @property {number} total steps
 * @property {string} text
 * @property {[number, number, number][]} points step, loss, smoothed loss
 * @property {string[]} asked requests since it began that it has not taken up
 * @typedef {Place & Rest} Status
 */

/**
 * @typedef {object} Panel
 * @property {HTMLElement} element
 * @property {HTMLElement} text
 * @property {HTMLElement} buttons
 * @property {(id: string, status: Status) => void} show
 */

const TRAINING_NODES = new Set(["LikenessTrainLora", "LikenessTrainDreamBooth"]);
const AUTO_AT_0 = new Set(["steps", "learning_rate", "text_learning_rate", "resolution"]);
const ROUTE = "/likeness/training";
const LOOK_EVERY = 1000; // milliseconds
const WIDGET = "likeness_training";
const CORE_TEXT = "$$node-text-preview"; // the widget that ComfyUI shows a node's progress text in

/** @type {WeakMap<object, Panel>} */
const panels = new WeakMap();

/** @type {Record<string, string>} how each button looks once it was pressed */
const PRESSED = { save: "Saving after this step", stop: "Stopping after this step" };

let queueIsBusy = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

app.registerExtension({
  name: "Likeness.Training",
  setup() {
    api.addEventListener("status", (/** @type {CustomEvent} */ event) => {
      queueIsBusy = (event.detail?.exec_info?.queue_remaining ?? 0) > 0;
      look();
    });
    look();
  },
  afterConfigureGraph: () => look(true),
  nodeCreated(/** @type {any} */ node) {
    if (TRAINING_NODES.has(node.comfyClass)) node.widgets?.forEach(sayAuto);
  },
});

/**
 * Show "auto" where 0 means that; the canvas only, the value stays a number.
 * @param {any} widget
 */
function sayAuto(widget) {
  const shown = findProperty(widget, "_displayValue");
  if (!AUTO_AT_0.has(widget.name) || !shown?.get) return;
  const get = () => (widget.value === 0 ? "auto" : shown.get?.call(widget));
  Object.defineProperty(widget, "_displayValue", { get, configurable: true });
}

/**
 * @param {object | null} owner
 * @param {string} name
 * @returns {PropertyDescriptor | undefined}
 */
function findProperty(owner, name) {
  if (!owner) return undefined;
  const own = Object.getOwnPropertyDescriptor(owner, name);
  return own ?? findProperty(Object.getPrototypeOf(owner), name);
}

/**
 * Bring all panels up to date, and look again while there may be something new.
 * @param {boolean} fresh whether the graph was just loaded: then pictures are asked for, too
 */
async function look(fresh = false) {
  clearTimeout(timer);
  let running = false;
  const nodes = new Map(trainingNodes(graph()));
  if (nodes.size) {
    /** @type {[string, Place][]} the newest first */
    const known = Object.entries((await ask("")) ?? {}).reverse();
    for (const [path, node] of nodes) {
      const own = known.find(([, { node, workflow }]) => node === path && !isForeign(workflow));
      if (!own) continue;
      const [id, place] = own;
      running ||= place.running;
      const shown = panels.get(node)?.element.dataset;
      if (place.running || fresh || shown?.training !== id || shown.running !== "false") {
        const status = await ask(`/${id}`);
        if (status) panelOf(node).show(id, status);
      }
      if (fresh && place.running) await ask(`/${id}/show`, "POST");
    }
  }
  clearTimeout(timer);
  if (running || (queueIsBusy && nodes.size)) timer = setTimeout(look, LOOK_EVERY);
}

/**
 * The training nodes of a graph and its subgraphs, by the id under which the server runs them.
 * @param {any} graph
 * @param {string} path
 * @returns {Generator<[string, any]>}
 */
function* trainingNodes(graph, path = "") {
  for (const node of graph?.nodes ?? []) {
    if (node.subgraph) yield* trainingNodes(node.subgraph, `${path}${node.id}:`);
    if (TRAINING_NODES.has(node.comfyClass ?? node.type)) yield [`${path}${node.id}`, node];
  }
}

const graph = () => app.rootGraph ?? app.graph;

/** @param {string} workflow the id of the graph that a training was queued from */
const isForeign = (workflow) => Boolean(workflow && graph()?.id && workflow !== graph().id);

/**
 * @param {string} path
 * @param {string} method
 * @returns {Promise<any>} the answer; null if there is none
 */
async function ask(path, method = "GET") {
  try {
    const answer = await api.fetchApi(ROUTE + path, { method });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null; // the server is away: it will be asked again
  }
}

/**
 * The panel of a node, made when it is first needed.
 * @param {any} node
 * @returns {Panel}
 */
function panelOf(node) {
  const known = panels.get(node);
  if (known) return known;
  const panel = makePanel(node);
  const height = () => 90 + (panel.text.hidden ? 0 : 60) + (panel.buttons.hidden ? 0 : 32);
  const options = { serialize: false, getMinHeight: height, getMaxHeight: height };
  const widget = node.addDOMWidget(WIDGET, "likeness-training", panel.element, options);
  widget.serialize = false; // `options` keeps it out of the prompt, this out of the saved workflow
  node.expandToFitContent?.();
  panels.set(node, panel);
  return panel;
}

/**
 * @param {any} node
 * @returns {Panel}
 */
function makePanel(node) {
  const element = make("div", { display: "flex", flexDirection: "column", gap: "4px" });
  element.className = "likeness-training";
  const text = make("div", { fontSize: "11px", whiteSpace: "pre-wrap" });
  const curve = make("div", { flex: "1", minHeight: "0" });
  const buttons = make("div", { display: "flex", gap: "6px" });
  const save = button("Save now", "Write a checkpoint and the result as it is, and go on.");
  const stop = button("Stop and keep", "End the training well: what was learned is handed on.");
  save.onclick = () => request("save");
  stop.onclick = () => request("stop");
  buttons.append(save, stop);
  element.append(text, curve, buttons);

  /** @param {string} what */
  async function request(what) {
    const id = element.dataset.training ?? "";
    const status = await ask(`/${id}/${what}`, "POST");
    if (status) show(id, status);
  }

  /** @param {string} id @param {Status} status */
  function show(id, status) {
    element.dataset.training = id;
    element.dataset.running = String(status.running);
    text.textContent = status.text;
    const core = node.widgets?.some((/** @type {any} */ other) => other.name === CORE_TEXT);
    text.hidden = core || !status.text; // ComfyUI shows it already
    curve.replaceChildren(...(status.points.length > 1 ? [drawn(status)] : []));
    buttons.hidden = !status.running;
    buttons.style.display = status.running ? "flex" : "none";
    for (const [what, element] of Object.entries({ save, stop })) {
      element.disabled = status.asked.includes(what);
      element.textContent = element.disabled ? PRESSED[what] : element.dataset.label ?? "";
    }
    node.setDirtyCanvas?.(true, true);
  }

  return { element, text, buttons, show };
}

/**
 * @param {string} tag
 * @param {Partial<CSSStyleDeclaration>} style
 */
function make(tag, style) {
  const element = document.createElement(tag);
  Object.assign(element.style, style);
  return element;
}

/**
 * @param {string} label
 * @param {string} title
 */
function button(label, title) {
  const shape = { flex: "1", border: "none", borderRadius: "6px", padding: "5px" };
  const colours = { color: "var(--input-text)", background: "var(--comfy-input-bg)" };
  const look = { ...shape, ...colours, cursor: "pointer" };
  const element = /** @type {HTMLButtonElement} */ (make("button", look));
  element.type = "button";
  element.textContent = element.dataset.label = label;
  element.title = title;
  return element;
}

/**
 * The loss of every step, pale, and smoothed.
 * @param {Status} status
 */
function drawn({ points }) {
  const [width, height] = [300, 80];
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const sorted = points.map((point) => point[1]).sort((a, b) => a - b);
  const smoothed = points.map((point) => point[2]);
  const high = Math.max(sorted[Math.floor(sorted.length * 0.98)], ...smoothed);
  const low = Math.min(sorted[0], ...smoothed);
  /** @param {number} step @param {number} loss */
  const at = (step, loss) => {
    const above = Math.min(1, (loss - low) / (high - low || 1));
    const x = ((step - first) / (last - first)) * width;
    const y = height - 2 - above * (height - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
  Object.assign(svg.style, { width: "100%", height: "100%", background: "var(--comfy-input-bg)" });
  svg.style.borderRadius = "6px";
  for (const [which, stroke, opacity] of [[1, "currentColor", 0.35], [2, "#e8833a", 1]]) {
    const line = points.map((point) => at(point[0], point[Number(which)])).join(" ");
    const look = { stroke, "stroke-opacity": opacity, "stroke-width": 1.5, fill: "none" };
    const even = { "vector-effect": "non-scaling-stroke" }; // however wide the node is
    svg.append(svgElement("polyline", { points: line, ...look, ...even }));
  }
  const title = svgElement("title", {});
  title.textContent = `Loss from ${low.toPrecision(3)} to ${high.toPrecision(3)}, ${last} steps`;
  svg.append(title);
  return svg;
}

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 */
function svgElement(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}
