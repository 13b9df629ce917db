/** What the page decides without a browser: marks and edits, the order of answers, figures, forms, and their texts. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { roundUp } from "../page/chart.js";
import { FormError, type Spec, beginning, readTensor, readValue } from "../page/inputs.js";
import { countWords, kindWord } from "../page/kinds.js";
import { Latest } from "../page/latest.js";
import { type Model, markersAmong } from "../page/models.js";
import { tableOf, tensorSummary, tensorText, valueText } from "../page/outputs.js";
import { editBetween, marksOf, moved } from "../page/spans.js";
import { MAX_STROKES, Strokes, ms, strokeWords } from "../page/strokes.js";
import { numbersOf, tensorOf } from "../page/tensors.js";

const mark = (start: number, end: number, entity = "PER") => ({ entity, start, end });
/** What the marks cut out of the text after an edit. */
const left = (before: string, after: string, ...marked: string[]): string[] =>
  moved(
    marked.map((part) => mark(before.indexOf(part), before.indexOf(part) + part.length)),
    before,
    after,
  ).map(({ start, end }) => after.slice(start, end));

test("characters become code units: an emoji counts once for the model and twice here", () => {
  const text = "🎉 Ada 👩‍🚀 Lovelace";
  assert.deepEqual(marksOf([{ entity: "PER", start: 2, end: 18, score: 0.5 }], text), [
    { entity: "PER", start: 3, end: text.length, score: 0.5 },
  ]);
});

test("what is no span of the text is left out", () => {
  const spans = [
    { entity: "PER", start: 4, end: 5 },
    { entity: "PER", start: 0, end: 99 },
    { entity: "PER", start: -1, end: 2 },
    { entity: "PER", start: 2, end: 2 },
    { entity: 7, start: 0, end: 1 },
    { entity: "PER", start: 0.5, end: 1 },
    null,
    "span",
    { entity: "LOC", start: 0, end: 3 },
  ];
  assert.deepEqual(marksOf(spans, "Oslo!"), [mark(0, 3, "LOC"), mark(4, 5)]);
  assert.deepEqual(marksOf(undefined, "Oslo"), []);
});

test("the edit between two texts is the smallest", () => {
  assert.deepEqual(editBetween("abc", "abXc"), { at: 2, removed: 0, inserted: "X" });
  assert.deepEqual(editBetween("aaa", "aa"), { at: 2, removed: 1, inserted: "" });
  assert.deepEqual(editBetween("same", "same"), { at: 4, removed: 0, inserted: "" });
  assert.deepEqual(editBetween("", "new"), { at: 0, removed: 0, inserted: "new" });
});

test("marks move with edits until a model has seen the text", () => {
  assert.deepEqual(left("met Ada in Oslo", "met my Ada in Oslo", "Ada", "Oslo"), ["Ada", "Oslo"]);
  assert.deepEqual(left("Ada in Oslo", "Adam in Oslo", "Ada", "Oslo"), ["Adam", "Oslo"], "a word goes on");
  assert.deepEqual(left("Ada", "Ada ", "Ada"), ["Ada"], "a gap does not belong to it");
  assert.deepEqual(left("Ada.", "Ada, .", "Ada"), ["Ada"]);
  assert.deepEqual(left("Lovelace", "Love lace", "Lovelace"), ["Love"], "a gap ends it");
  assert.deepEqual(left("Loveace", "Lovelace", "Loveace"), ["Lovelace"]);
  assert.deepEqual(left("Ada met Bob", "Ada Bob", "Ada", "Bob"), ["Ada", "Bob"]);
  assert.deepEqual(left("Ada met Bob", "Adb", "Ada", "Bob"), ["Ad", "b"]);
  assert.deepEqual(left("Ada met Bob", "", "Ada", "Bob"), []);
  assert.deepEqual(left("see Ada", "see Grace", "Ada"), [], "what was replaced is not marked");
});

test("an answer older than the one that is shown is dropped, and one to an older text is moved", () => {
  const latest = new Latest();
  const first = latest.type("Ada");
  const second = latest.type("Ada B");
  const third = latest.type("I, Ada B");
  assert.equal(
    latest.answered(second, () => [mark(0, 3)]),
    true,
  );
  assert.deepEqual(latest.marks, [mark(3, 6)], "moved to where that text is now");
  assert.equal(latest.upToDate, false);
  assert.equal(
    latest.answered(first, () => [mark(0, 1)]),
    false,
  );
  assert.deepEqual(latest.marks, [mark(3, 6)]);
  assert.equal(
    latest.answered(third, () => [mark(3, 8)]),
    true,
  );
  assert.equal(latest.upToDate, true);
  assert.equal(
    latest.answered(third, () => []),
    false,
    "a second answer is nobody's",
  );
});

test("an empty text needs no answer, and takes none to an older one", () => {
  const latest = new Latest();
  const old = latest.type("Ada");
  latest.type("");
  assert.equal(latest.upToDate, true);
  assert.equal(
    latest.answered(old, () => [mark(0, 3)]),
    false,
  );
  assert.deepEqual(latest.marks, []);
});

test("each keystroke's time is divided, and the percentiles are of those that were answered", () => {
  const strokes = new Strokes();
  for (let n = 1; n <= 100; n += 1) strokes.send(n, 0);
  for (let n = 1; n <= 98; n += 1) {
    strokes.answer(n, { queuedMs: 1, computeMs: 2, batchRows: 3, released: "freed" }, n);
  }
  strokes.supersede(99, 5);
  strokes.fail(100, "no worker", 7);
  assert.equal(strokes.percentile(0.5), 49);
  assert.equal(strokes.percentile(0.99), 98);
  assert.deepEqual([strokes.sent, strokes.answered, strokes.superseded, strokes.failed], [100, 98, 1, 1]);
  assert.equal(
    strokeWords(strokes.newestAnswered!, 0),
    "98 ms: network and browser 95, queue 1.0, compute 2.0; batch of 3, device became free",
  );
  assert.equal(strokeWords(strokes.last.at(-1)!, 0), "failed after 7.0 ms: no worker");
  assert.equal(new Strokes().percentile(0.5), undefined);
});

test("no more keystrokes are remembered than are drawn, and late answers are still counted", () => {
  const strokes = new Strokes();
  for (let n = 1; n <= MAX_STROKES + 10; n += 1) strokes.send(n, 0);
  strokes.answer(1, undefined, 3);
  assert.equal(strokes.last.length, MAX_STROKES);
  assert.equal(strokes.answered, 1);
  assert.equal(strokes.newestAnswered, undefined);
});

test("numbers and scales are round", () => {
  assert.deepEqual([0.123, 3.44, 27.4, 12345].map(ms), ["0.12", "3.4", "27", "12\u202f345"]);
  assert.deepEqual([0.7, 1, 4.2, 11, 61, 900].map(roundUp), [0.8, 1, 6, 20, 80, 1000]);
  assert.equal(countWords(["PER", "LOC", "PER", "MISC"]), "2 people, 1 place, 1 other");
  assert.equal(kindWord("MISC"), "misc");
});

test("ner is preferred among the models that mark texts", () => {
  const text: Spec = { name: "text", dtype: "STRING", shape: [] };
  const spans: Spec = { name: "spans", dtype: "LIST", shape: [] };
  const model = (name: string, inputs?: Spec[], outputs?: Spec[]): Model => ({
    name,
    inputs,
    outputs,
    maxBatchSize: 1,
  });
  const models = [
    model("echo"),
    model("bert", [{ ...text, name: "sentence" }], [spans]),
    model("two", [text, { ...text, name: "more" }], [spans]),
    model("ner", [text], [spans]),
    model("net", [{ name: "x", dtype: "FP32", shape: [1] }], [spans]),
  ];
  assert.deepEqual(markersAmong(models), [
    { model: "ner", input: "text" },
    { model: "bert", input: "sentence" },
  ]);
});

// ---- the playground

const FP32 = (...shape: number[]): Spec => ({ name: "x", dtype: "FP32", shape });
const typed = (text: string, shape = "") => ({ fill: "typed", text, shape }) as const;
const refused = (read: () => unknown, words: RegExp): void => {
  assert.throws(read, (error) => error instanceof FormError && words.test(error.message));
};

test("typed numbers become a tensor of the declared shape, or a sentence says why not", () => {
  assert.deepEqual(readTensor(FP32(2, -1), typed("[[1, 2, 3], [4, 5, 6]]"), undefined), {
    dtype: "FP32",
    shape: [2, 3],
    data: [1, 2, 3, 4, 5, 6],
  });
  assert.deepEqual(readTensor(FP32(), typed("0.5"), undefined).shape, []);
  assert.deepEqual(readTensor(FP32(2, 2), typed("[1, 2, 3, 4]", "2, 2"), undefined).shape, [2, 2], "flat, and a shape");
  assert.deepEqual(readTensor(FP32(1), typed("[[1], [2]]"), 2).shape, [2, 1], "rows lead");
  refused(
    () => readTensor(FP32(1), typed("[1, 2]"), undefined),
    /x: the model takes FP32\[1\], and these are 2 numbers/,
  );
  refused(() => readTensor(FP32(-1, -1), typed("[[1], [2, 3]]"), undefined), /not all of one length/);
  refused(() => readTensor(FP32(1), typed("[1"), undefined), /x: this is not JSON/);
  refused(() => readTensor(FP32(1), typed('["a"]'), undefined), /x: "a" is no FP32/);
  refused(() => readTensor({ ...FP32(1), dtype: "INT8" }, typed("[0.5]"), undefined), /0.5 is no INT8/);
  refused(() => readTensor(FP32(1), typed("[1]"), 2), /takes FP32\[2, 1\]/);
});

test("zeros and random numbers have the shape that is asked for", () => {
  const zeros = readTensor(FP32(3, -1), { fill: "zeros", text: "", shape: "3, 2" }, 4);
  assert.deepEqual([zeros.shape, Math.max(...Array.from(zeros.data))], [[4, 3, 2], 0]);
  const random = readTensor(
    { name: "x", dtype: "BOOL", shape: [-1] },
    { fill: "random", text: "", shape: "50" },
    undefined,
  );
  assert.ok(Array.from(random.data).every((value) => value === 0 || value === 1));
  const fill = { fill: "zeros", text: "" } as const;
  refused(() => readTensor(FP32(3, -1), { ...fill, shape: "4, 2" }, undefined), /takes FP32\[3, -1\]/);
  refused(() => readTensor(FP32(-1), { ...fill, shape: "many" }, undefined), /whole numbers/);
  refused(() => readTensor(FP32(-1, -1), { ...fill, shape: "99999, 99999" }, undefined), /too large/);
  refused(() => readTensor(FP32(-1), { ...fill, shape: "9999" }, 4096), /too large/);
});

test("values are JSON of the declared kind, text is itself, and rows are lines", () => {
  const spec = (dtype: string): Spec => ({ name: "v", dtype, shape: [] });
  assert.equal(readValue(spec("STRING"), "[1]", undefined), "[1]");
  assert.deepEqual(readValue(spec("STRING"), "a\nb", 2), ["a", "b"]);
  assert.deepEqual(readValue(spec("MAP"), '{"a": null}', undefined), { a: null });
  assert.deepEqual(readValue(spec("NUMBER"), "[1, 2]", 2), [1, 2]);
  refused(() => readValue(spec("STRING"), "a", 2), /every line is a row; there are 1 lines/);
  refused(() => readValue(spec("NUMBER"), "true", undefined), /NUMBER is asked for, such as 0.5/);
  refused(() => readValue(spec("LIST"), "[1]", 2), /a list of 2/);
});

test("the form begins with what can be sent", () => {
  for (const [dtype, shape] of [
    ["FP32", [1]],
    ["FP32", [-1, 3]],
    ["INT64", []],
    ["FP16", [3, 224, 224]],
  ] as const) {
    const spec: Spec = { name: "x", dtype, shape };
    const tensor = readTensor(spec, beginning(spec), undefined);
    assert.equal(tensor.shape.length, shape.length);
  }
  for (const dtype of ["STRING", "NUMBER", "BOOLEAN", "LIST", "MAP", "ANY"]) {
    const spec: Spec = { name: "v", dtype, shape: [] };
    readValue(spec, beginning(spec).text, undefined);
  }
});

test("numbers become bits and are numbers again", () => {
  for (const dtype of [
    "FP32",
    "FP64",
    "BF16",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
  ]) {
    const tensor = tensorOf({ dtype, shape: [3], data: [0, 1, 100] });
    assert.deepEqual(Array.from(numbersOf(tensor) as ArrayLike<number>, Number), [0, 1, 100], dtype);
  }
  const rounded = tensorOf({ dtype: "BF16", shape: [2], data: [1.00390625, -1 / 3] });
  assert.deepEqual(Array.from(numbersOf(rounded) as ArrayLike<number>), [1, -0.333984375], "ties to even");
});

test("answers are shown so that they can be read", () => {
  assert.equal(tensorText([2, 3], [1, 2, 3, 4.5, 5, 60]), "  1    2    3\n4.5    5   60");
  assert.equal(tensorText([], [7]), "7");
  assert.equal(tensorText([0, 3], []), "(no elements)");
  const large = tensorText([100, 100], new Float32Array(10_000));
  assert.equal(large.split("\n").length, 9);
  assert.match(large, /…\n…$/);
  assert.equal(tensorSummary([1, 2, 6]), "min 1, mean 3, max 6");
  assert.equal(tensorSummary([1]), "");
  assert.equal(tensorSummary(BigInt64Array.of(1n, 3n)), "min 1, mean 2, max 3");
  assert.equal(
    valueText({ a: [1, "two", null], b: 5n, c: Uint8Array.of(1, 255) }),
    '{"a": [1, "two", null], "b": 5, "c": <2 bytes: 01 ff>}',
  );
  assert.match(valueText(Array.from({ length: 60 }, (_, i) => `line ${i}`)), /^\[\n {2}"line 0",\n/);
  assert.match(valueText("x".repeat(60_000)), /… 10,002 characters more$/);
  assert.deepEqual(
    tableOf([
      { a: 1, b: "x" },
      { a: 2, b: null },
    ]),
    {
      columns: ["a", "b"],
      rows: [
        ["1", "x"],
        ["2", "null"],
      ],
    },
  );
  assert.equal(tableOf([{ a: 1 }, { b: 1 }]), undefined);
  assert.equal(tableOf([{ a: [1] }]), undefined);
  assert.equal(tableOf([]), undefined);
});
