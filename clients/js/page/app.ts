/**
 * The page: the text box that asks with every keystroke, the figures beside it, and the playground.
 *
 *     spans.ts latest.ts strokes.ts     marks and edits; which answer may be shown; what became of each keystroke
 *     inputs.ts outputs.ts tensors.ts   from a form to a request, and from an answer to what is read
 *     models.ts kinds.ts                which models mark texts, and what their labels are called
 *     session.ts                        the connection, the models, the token
 *     writing.ts                        one request for every keystroke
 *     editor.ts found.ts                the text box with its marks; the list of what was found
 *     chart.ts figures.ts               the last keystrokes as columns, and as numbers
 *     playground.ts answers.ts          the form for any model; what the model answered
 *     typist.ts tabs.ts                 an example that types itself; the two views
 *
 * The first three lines know nothing of the DOM or the network, and are tested without a browser. Its life, a keystroke
 * at a time: the textarea changes, `Writing.typed` numbers the text and sends it, the chart gets a column that waits;
 * an answer comes, `Latest` says whether it may be shown, and the editor, the list and the figures are painted anew.
 */

import { Chart } from "./chart.js";
import { byId, make, say } from "./dom.js";
import { Editor } from "./editor.js";
import { Figures } from "./figures.js";
import { Found } from "./found.js";
import { markersAmong } from "./models.js";
import { Playground } from "./playground.js";
import { Session, type State } from "./session.js";
import { Strokes } from "./strokes.js";
import { Tabs } from "./tabs.js";
import { Typist } from "./typist.js";
import { Writing } from "./writing.js";

const CONNECTION: Record<State, string> = {
  connecting: "Connecting",
  open: "Connected",
  lost: "Connection lost, trying again",
  token: "A token is needed",
  refused: "Refused",
};

const tabs = new Tabs(document.querySelector<HTMLElement>("[role=tablist]")!);
const connection = byId("connection", HTMLElement);
const tokenForm = byId("token-form", HTMLFormElement);
const tokenField = byId("token", HTMLInputElement);
const markerLabel = byId("write-model-label", HTMLElement);
const marker = byId("write-model", HTMLSelectElement);
let tokenGiven = false;

const strokes = new Strokes();
const figures = new Figures(strokes);
const chart = new Chart(
  byId("chart", HTMLElement),
  byId("canvas", HTMLCanvasElement),
  byId("readout", HTMLElement),
  strokes.last,
);
const found = new Found(byId("entities", HTMLElement), byId("found-empty", HTMLElement), byId("summary", HTMLElement));
const session = new Session(onState, (models) => {
  const markers = markersAmong(models);
  marker.replaceChildren(...markers.map(({ model }) => make("option", {}, model)));
  markerLabel.hidden = markers.length < 2;
  const before = writing.marker?.model;
  if (markers.some(({ model }) => model === before)) marker.value = before!;
  writing.use(markers.find(({ model }) => model === marker.value));
  marker.onchange = () => writing.use(markers.find(({ model }) => model === marker.value));
  playground.offer(models);
  if (markers.length === 0) tabs.prefer("playground");
});
const writing = new Writing(session, strokes, {
  progress: byId("progress", HTMLElement),
  problem: byId("write-problem", HTMLElement),
  onChange() {
    editor.paint(writing.marks);
    found.show(writing.marks, editor.text);
    clear.disabled = editor.text === "";
    figures.update();
    chart.update();
  },
});
const editor = new Editor(byId("sheet", HTMLElement), byId("text", HTMLTextAreaElement), byId("backdrop", HTMLElement));
const playground = new Playground(session.ask);

const clear = byId("clear", HTMLButtonElement);
clear.addEventListener("click", () => editor.clear());
new Typist(byId("example", HTMLButtonElement), editor);

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  tokenGiven = true;
  tokenForm.hidden = true;
  session.useToken(tokenField.value);
  tokenField.value = "";
});

function onState(state: State, problem: string): void {
  connection.dataset["state"] = state;
  say(
    byId("connection-words", HTMLElement),
    problem && state === "refused" ? `Refused: ${problem}` : CONNECTION[state],
  );
  tokenForm.hidden = state !== "token";
  if (state === "token") {
    say(byId("token-problem", HTMLElement), tokenGiven ? "The server does not take that token." : "");
    tokenField.focus();
  }
  writing.follow();
}

editor.listen((text) => writing.typed(text));
session.start();
