// The page: fills the tiles from /metrics every two seconds, and runs the chat. Text of users and models enters as text, never as markup.

import { Answer, stream, userMessage } from "./chat.js";
import { get, History, parse } from "./metrics.js";

const POLL_MS = 2000;
const KEY = "ernie-api-key"; // in this tab only
const $ = (id) => document.getElementById(id);
const history = new History(60);
const messages = [];
let controller = null;
let image = null;
let modelName = null;

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// What the server does ------------------------------------------------------------------------------------------------------------

async function poll() {
  const [health, models, metrics] = await Promise.allSettled([
    fetch("health"),
    fetch("v1/models", { headers: headers() }),
    fetch("metrics", { headers: headers() }),
  ]);
  const ready = health.status === "fulfilled" && health.value.ok;
  const reached = health.status === "fulfilled";
  $("state").textContent = ready ? "ready" : reached ? "not ready" : "not reached";
  $("state").className = `badge ${ready ? "good" : "bad"}`;
  await showModel(models.value);
  await showMetrics(metrics.value);
}

async function showModel(response) {
  if (!response?.ok) return;
  const [model] = (await response.json()).data;
  modelName = model.id;
  $("model").textContent = model.id;
  document.title = `${model.id} · ernie-triton`;
  $("limits").textContent = model.max_model_len ? `context ${number(model.max_model_len)} tokens` : "";
}

async function showMetrics(response) {
  const refused = response?.status === 401 || response?.status === 403;
  $("metrics-note").hidden = Boolean(response?.ok);
  $("metrics-note").textContent = refused ? "Type in an API key that may read metrics." : "The metrics cannot be read at the moment.";
  if (!response?.ok) return;
  const sums = parse(await response.text());
  history.add(performance.now() / 1000, sums);
  const used = get(sums, "ernie_kv_blocks_used"), blocks = get(sums, "ernie_kv_blocks");
  const prompt = get(sums, "ernie_prompt_tokens_total"), found = get(sums, "ernie_cached_tokens_total");
  const rate = history.rate("ernie_generation_tokens_total", 10);
  $("generated").textContent = rate === null ? "–" : number(rate, rate < 10 ? 1 : 0);
  $("running").textContent = number(get(sums, "ernie_sequences_running"));
  const waiting = get(sums, "ernie_sequences_waiting"), finished = get(sums, "ernie_sequences_finished_total");
  $("others").textContent = `${number(waiting)} waiting · ${number(finished)} finished`;
  $("kv").textContent = blocks ? `${number((100 * used) / blocks, 1)} %` : "–";
  $("kv-meter").value = blocks ? used / blocks : 0;
  $("kv-blocks").textContent = `${number(used)} of ${number(blocks)} blocks`;
  $("hits").textContent = prompt ? `${number((100 * found) / prompt)} %` : "–";
  $("ttft").textContent = milliseconds(history.mean("fastdeploy:time_to_first_token_seconds"));
  $("itl").textContent = milliseconds(history.mean("fastdeploy:time_per_output_token_seconds"));
  $("attach-label").hidden = !sums.has("ernie_media_bytes_total"); // published by models that see, and no others
  drawSpark(history.rates("ernie_generation_tokens_total"));
}

function drawSpark(rates) {
  const top = Math.max(1, ...rates);
  const points = rates.map((rate, i) => `${(120 * (i + 1)) / Math.max(2, rates.length)},${26 - (24 * rate) / top}`);
  $("spark").firstElementChild.setAttribute("points", points.join(" "));
}

function number(value, digits = 0) {
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

function milliseconds(seconds) {
  return seconds === null ? "–" : number(1000 * seconds, seconds < 0.01 ? 1 : 0);
}

async function keepPolling() {
  if (!document.hidden) await poll().catch(() => {});
  setTimeout(keepPolling, POLL_MS);
}

// The chat ------------------------------------------------------------------------------------------------------------------------

function addMessage(role) {
  const box = element("div", `message ${role}`);
  $("messages").append(box);
  scroll();
  return box;
}

function scroll() {
  const box = $("messages");
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

/** Shows an answer as far as it has come; elements are made when there is something in them. */
class AnswerView {
  constructor() {
    this.box = addMessage("assistant");
    this.box.classList.add("writing");
  }

  show(answer) {
    if (answer.thought) {
      this.thought ??= this.addThought();
      this.thought.lastElementChild.textContent = answer.thought.trim();
      this.thought.firstElementChild.textContent = answer.text || answer.calls.length || answer.finish ? "Thought" : "Thinking …";
      if (answer.text && this.thought.dataset.auto) {
        this.thought.open = false;
        delete this.thought.dataset.auto;
      }
    }
    if (answer.text) {
      this.text ??= this.box.appendChild(element("div", "text"));
      this.text.textContent = answer.text;
    }
    answer.calls.forEach((call, i) => this.showCall(call, i));
    scroll();
  }

  addThought() {
    const made = element("details", "thought");
    made.open = true;
    made.dataset.auto = "yes";
    made.append(element("summary", ""), element("div", "text"));
    this.box.prepend(made);
    return made;
  }

  showCall(call, i) {
    this.calls ??= [];
    this.calls[i] ??= this.box.appendChild(element("div", "call"));
    this.calls[i].replaceChildren("Calls ", element("b", "", call.function.name), element("pre", "", pretty(call.function.arguments)));
  }

  end(answer, error) {
    this.box.classList.remove("writing");
    if (error) this.box.append(element("p", "error", error));
    this.box.append(element("p", "foot quiet", summary(answer)));
    scroll();
  }
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function summary(answer) {
  const parts = [];
  if (answer.usage) parts.push(`${number(answer.usage.prompt_tokens)} + ${number(answer.usage.completion_tokens)} tokens`);
  if (answer.timings) {
    const { queue_ms, preprocess_ms, prompt_ms, predicted_per_second } = answer.timings;
    parts.push(`first token after ${number(queue_ms + preprocess_ms + prompt_ms)} ms`);
    if (predicted_per_second) parts.push(`${number(predicted_per_second, 1)} tokens/s`);
  }
  if (answer.finish && answer.finish !== "stop") parts.push(`ended by ${answer.finish.replace("_", " ")}`);
  return parts.join(" · ");
}

function body() {
  const sent = { model: modelName, messages, stream: true, stream_options: { include_usage: true }, timings: true };
  sent.max_tokens = Number($("max-tokens").value) || undefined;
  if ($("temperature").value !== "") sent.temperature = Number($("temperature").value);
  if ($("thinking").value) sent.enable_thinking = $("thinking").value === "true";
  if ($("tools").value.trim()) sent.tools = JSON.parse($("tools").value);
  return sent;
}

async function send() {
  const text = $("prompt").value.trim();
  if (!text || controller) return;
  let sent;
  messages.push(userMessage(text, image));
  try {
    sent = body();
  } catch {
    messages.pop();
    $("tools").setCustomValidity("This is not JSON.");
    $("tools").closest("details").open = true;
    $("tools").reportValidity();
    return;
  }
  const mine = addMessage("user");
  if (image) mine.append(Object.assign(element("img", ""), { src: image, alt: "Sent image" }));
  mine.append(element("div", "text", text));
  $("prompt").value = "";
  detach();
  await receive(sent);
}

async function receive(sent) {
  const answer = new Answer(), view = new AnswerView();
  controller = new AbortController();
  busy(true);
  let error = null, waiting = false;
  try {
    for await (const chunk of stream(sent, headers(), controller.signal)) {
      answer.add(chunk);
      if (!waiting) { // at most one redraw for each frame, however fast the tokens come
        waiting = true;
        requestAnimationFrame(() => { waiting = false; view.show(answer); });
      }
    }
  } catch (problem) {
    error = problem.name === "AbortError" ? "Stopped." : problem.message;
  }
  view.show(answer);
  view.end(answer, error);
  if (answer.text || answer.calls.length) messages.push(answer.message());
  else messages.pop(); // what got no answer is not asked again with the next message
  controller = null;
  busy(false);
}

function busy(now) {
  $("send").hidden = now;
  $("stop").hidden = !now;
  $("clear").disabled = now;
}

function detach() {
  image = null;
  $("image").value = "";
  $("attached").hidden = true;
}

$("chat-form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("tools").addEventListener("input", () => $("tools").setCustomValidity(""));
$("stop").addEventListener("click", () => controller?.abort());
$("detach").addEventListener("click", detach);
$("clear").addEventListener("click", () => { messages.length = 0; $("messages").replaceChildren(); });
$("image").addEventListener("change", () => {
  const [file] = $("image").files;
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => { image = reader.result; $("preview").src = image; $("attached").hidden = false; });
  reader.readAsDataURL(file);
});
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); poll(); });
$("key").value = sessionStorage.getItem(KEY) ?? "";
$("key").addEventListener("change", () => { sessionStorage.setItem(KEY, $("key").value.trim()); poll(); });

keepPolling();
