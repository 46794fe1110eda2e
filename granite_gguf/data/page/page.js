// The page of a service. The same file is the module of the audio worklet that hands on what the
// microphone hears, so that there is one script and nothing to build.

const UNSURE = 0.75;
const DOUBTFUL = 0.5;

if (globalThis.registerProcessor) {
  registerProcessor("hear", class extends AudioWorkletProcessor {
    process([[channel]]) {
      if (channel) this.port.postMessage(channel.slice());
      return true;
    }
  });
} else {
  start();
}

function start() {
  const $ = (id) => document.getElementById(id);
  const files = $("files");

  // A key is kept as long as this tab.
  $("key").value = sessionStorage.getItem("key") ?? "";
  $("asked").hidden = !$("key").value;
  $("key").addEventListener("change", () => {
    sessionStorage.setItem("key", $("key").value);
    listModels();
  });

  files.addEventListener("change", () => {
    for (const file of files.files) add(file, file.name);
    files.value = "";
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    for (const file of event.dataTransfer.files) add(file, file.name);
  });
  setUpMicrophone($("record"), $("recorded"), $("microphone"), add);
  $("options").addEventListener("submit", (event) => event.preventDefault());
  listModels();

  async function listModels() {
    try {
      const answer = await fetch("v1/models", { headers: credentials() });
      const body = await answer.json();
      if (!answer.ok) throw refusal(answer.status, body);
      $("model").replaceChildren(...body.data.map(({ id }) => new Option(id)));
      tell("");
    } catch (error) {
      tell(error.message);
    }
  }

  function credentials() {
    return $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {};
  }

  function tell(trouble) {
    $("trouble").textContent = trouble;
    $("trouble").hidden = !trouble;
  }

  function refusal(status, body) {
    if (status === 401) $("asked").hidden = false;
    return new Error(body?.error?.message ?? `the server answered ${status}`);
  }

  function add(blob, name) {
    const form = new FormData();
    form.append("model", $("model").value);
    form.append("response_format", "verbose_json");
    form.append("stream", "true");
    for (const kind of ["srt", "vtt"]) form.append("include[]", kind);
    form.append("vad", $("vad").checked ? "energy" : "off");
    if ($("pieces").checked) form.append("chunk_seconds", "30");
    form.append("file", blob, name);
    const view = new Recording($("recording").content, blob, name);
    $("recordings").prepend(view.article);
    send(form, view);
  }

  // A request by fetch does not tell how much is sent.
  function send(form, view) {
    const request = new XMLHttpRequest();
    let read = 0;
    const readOn = () => {
      const text = request.responseText;
      for (let end; (end = text.indexOf("\n\n", read)) >= 0; read = end + 2) {
        view.hear(JSON.parse(text.slice(read, end).replace(/^data: /, "")));
      }
    };
    request.open("POST", "v1/audio/transcriptions");
    for (const [name, value] of Object.entries(credentials())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", ({ loaded, total }) => view.sent(loaded / total));
    request.upload.addEventListener("load", () => view.sent(1));
    request.addEventListener("progress", () => request.status === 200 && readOn());
    request.addEventListener("error", () => view.fail("the server cannot be reached"));
    request.addEventListener("load", () => {
      if (request.status === 200) {
        readOn();
        if (!view.over) view.fail("the answer broke off");
        return;
      }
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // What stands between here and the server has answered in its own way: the status tells.
      }
      view.fail(refusal(request.status, body).message);
    });
    view.onRemove = () => request.abort();
    request.send(form);
  }
}

// One recording and what became of it.
class Recording {
  constructor(template, blob, name) {
    this.article = template.cloneNode(true).querySelector("article");
    this.name = name;
    this.words = [];
    this.over = false;
    this.onRemove = () => {};
    this.part = (selector) => this.article.querySelector(selector);
    this.part("h3").textContent = name;
    this.audio = this.part("audio");
    this.audio.src = URL.createObjectURL(blob);
    this.audio.setAttribute("aria-label", `Listen to ${name}`);
    this.audio.addEventListener("error", () => (this.audio.hidden = true));
    this.text = this.part(".text");
    this.addresses = [this.audio.src];
    this.said("sending");

    this.part(".remove").addEventListener("click", () => this.remove());
    this.part(".copy").addEventListener("click", () => this.copy());
    this.text.addEventListener("click", ({ target }) => this.seek(target));
    this.text.addEventListener("keydown", (event) => this.key(event));
    this.audio.addEventListener("play", () => this.follow());
    this.audio.addEventListener("seeked", () => this.light());
  }

  said(state) {
    this.part(".state").textContent = state;
  }

  sent(share) {
    const bar = this.part("progress");
    if (share < 1) {
      bar.value = share;
    } else {
      bar.removeAttribute("value");
      this.said("listening");
    }
  }

  hear(event) {
    if (event.type === "error") this.fail(event.error.message);
    if (event.type === "transcript.text.delta") {
      for (const word of event.words) this.append(word);
      const length = this.audio.duration;
      if (Number.isFinite(length) && length > 0) {
        this.part("progress").value = Math.min(1, event.end / length);
        this.said(`${Math.round(event.end)} of ${Math.round(length)} s`);
      }
    }
    if (event.type === "transcript.text.done") this.finish(event);
  }

  append(word) {
    const span = document.createElement("span");
    span.className = "word";
    if (word.probability < UNSURE) span.classList.add("unsure");
    if (word.probability < DOUBTFUL) span.classList.add("doubtful");
    span.title = `${word.start.toFixed(1)} s, ${Math.round(100 * word.probability)} % sure`;
    span.textContent = word.word;
    span.tabIndex = this.words.length ? -1 : 0;
    if (word.speaker && word.speaker !== this.words.at(-1)?.speaker) {
      const who = document.createElement("strong");
      who.textContent = `${word.speaker}: `;
      if (this.words.length) this.text.append(document.createElement("br"));
      this.text.append(who);
    }
    this.text.append(span, " ");
    this.words.push({ ...word, span });
  }

  finish(event) {
    this.over = true;
    this.part("progress").hidden = true;
    this.part(".remove").textContent = "Remove";
    const count = this.words.length;
    this.said(event.text ? `done, ${count} ${count === 1 ? "word" : "words"}` : "done: nothing is said");
    this.transcript = event.text;
    const words = this.words.map(({ span, ...word }) => word);
    const plain = { file: this.name, text: event.text, duration: event.duration, words };
    const made = {
      txt: [event.text + "\n", "text/plain"],
      srt: [event.srt, "application/x-subrip"],
      vtt: [event.vtt, "text/vtt"],
      json: [JSON.stringify(plain, null, 2) + "\n", "application/json"],
    };
    for (const link of this.article.querySelectorAll("[data-kind]")) {
      const [text, type] = made[link.dataset.kind];
      link.href = URL.createObjectURL(new Blob([text], { type }));
      link.download = `${this.name.replace(/\.[^.]*$/, "")}.${link.dataset.kind}`;
      link.setAttribute("aria-label", `Download as ${link.textContent}`);
      this.addresses.push(link.href);
    }
    this.part(".tools").hidden = false;
  }

  fail(message) {
    this.over = true;
    this.said("failed");
    this.part("progress").hidden = true;
    this.part(".remove").textContent = "Remove";
    this.part(".error").textContent = message;
    this.part(".error").hidden = false;
  }

  remove() {
    this.onRemove();
    this.audio.pause();
    for (const address of this.addresses) URL.revokeObjectURL(address);
    const next = this.article.nextElementSibling ?? this.article.previousElementSibling;
    this.article.remove();
    (next?.querySelector(".remove") ?? document.getElementById("files")).focus();
  }

  async copy() {
    const button = this.part(".copy");
    try {
      await navigator.clipboard.writeText(this.transcript);
      button.textContent = "Copied";
    } catch {
      // Not allowed, or not there because the page came over plain HTTP from another machine.
      getSelection().selectAllChildren(this.text);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }

  seek(span) {
    const word = this.words.find((one) => one.span === span);
    if (!word) return;
    this.choose(span);
    this.audio.currentTime = word.start;
    this.audio.play().catch((error) => this.said(`cannot be played: ${error.message}`));
  }

  choose(span) {
    for (const one of this.text.querySelectorAll("[tabindex='0']")) one.tabIndex = -1;
    span.tabIndex = 0;
    span.focus();
  }

  key(event) {
    const at = this.words.findIndex((word) => word.span === event.target);
    const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.words.length - 1 };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.seek(event.target);
    } else if (event.key in steps && this.words[steps[event.key]]) {
      event.preventDefault();
      this.choose(this.words[steps[event.key]].span);
    }
  }

  // A player tells the time four times a second, which is later than a word.
  follow() {
    this.light();
    if (!this.audio.paused) requestAnimationFrame(() => this.follow());
  }

  light() {
    const now = this.audio.currentTime;
    const word = this.words.findLast((one) => one.start <= now && now < one.end);
    if (word?.span === this.lit) return;
    this.lit?.classList.remove("now");
    this.lit = word?.span;
    this.lit?.classList.add("now");
  }
}

function setUpMicrophone(button, timer, status, add) {
  if (!navigator.mediaDevices?.getUserMedia) {
    button.disabled = true;
    status.textContent = "Recording needs this page over HTTPS, or from this machine itself.";
    return;
  }
  let stop = null;
  button.addEventListener("click", async () => {
    if (stop) {
      stop();
      return;
    }
    button.disabled = true;
    try {
      stop = await record();
      status.textContent = "";
      button.textContent = "Stop";
      button.setAttribute("aria-pressed", "true");
    } catch (error) {
      const refused = error.name === "NotAllowedError";
      status.textContent = refused
        ? "The browser does not let this page use the microphone."
        : `There is no microphone: ${error.message}`;
    } finally {
      button.disabled = false;
    }
  });

  async function record() {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const context = new AudioContext();
    await context.audioWorklet.addModule(import.meta.url);
    const node = new AudioWorkletNode(context, "hear", { numberOfOutputs: 0 });
    const parts = [];
    let count = 0;
    node.port.onmessage = ({ data }) => {
      parts.push(data);
      count += data.length;
      timer.textContent = `${Math.floor(count / context.sampleRate)} s`;
    };
    context.createMediaStreamSource(stream).connect(node);
    return () => {
      stop = null;
      for (const track of stream.getTracks()) track.stop();
      node.port.onmessage = null;
      button.textContent = "Record";
      button.setAttribute("aria-pressed", "false");
      timer.textContent = "";
      const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
      add(wav(parts, count, context.sampleRate), `recording ${time}.wav`);
      context.close();
    };
  }
}

// Samples of 16 bits, mono.
function wav(parts, count, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (at, letters) => [...letters].forEach((c, n) => view.setUint8(at + n, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const part of parts) {
    for (const sample of part) {
      view.setInt16(at, 32767 * Math.max(-1, Math.min(1, sample)), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
