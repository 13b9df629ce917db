/**
 * Marks: which parts of a text a model has named, and where those parts are after the text was edited.
 *
 * Models count characters (code points), as Python does. The DOM counts UTF-16 code units, so a character outside the
 * basic plane, an emoji for one, counts twice. Everything in the page is in code units; `marksOf` translates.
 */

/** A named part of a text, from code unit `start` to before `end`. */
export interface Mark {
  entity: string;
  start: number;
  end: number;
  /** How sure the model is, 0 to 1, if it says so. */
  score?: number;
}

/** `removed` code units at `at` were replaced by `inserted`. */
export interface Edit {
  at: number;
  removed: number;
  inserted: string;
}

const WORD = /[\p{L}\p{M}\p{N}'’-]/u;
const LEADING_WORD = /^[\p{L}\p{M}\p{N}'’-]+/u;

/** The marks in a model's output `spans`, in the order of the text; what is no span, or not in `text`, is left out. */
export function marksOf(spans: unknown, text: string): Mark[] {
  if (!Array.isArray(spans)) return [];
  const found: Mark[] = [];
  for (const span of spans) {
    if (typeof span !== "object" || span === null) continue;
    const { entity, start, end, score } = span as Record<string, unknown>;
    if (typeof entity !== "string" || !isOffset(start) || !isOffset(end) || start >= end) continue;
    found.push({ entity, start, end, ...(typeof score === "number" ? { score } : {}) });
  }
  const units = codeUnits(
    text,
    found.flatMap((mark) => [mark.start, mark.end]),
  );
  return found
    .map((mark) => ({ ...mark, start: units.get(mark.start) ?? -1, end: units.get(mark.end) ?? -1 }))
    .filter((mark) => mark.start >= 0 && mark.end >= 0)
    .sort((a, b) => a.start - b.start || b.end - a.end);
}

function isOffset(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}

/** Where the characters with these numbers begin, in code units. One that the text does not have is not in the map. */
function codeUnits(text: string, characters: number[]): Map<number, number> {
  const wanted = [...new Set(characters)].sort((a, b) => a - b);
  const units = new Map<number, number>();
  let character = 0;
  let unit = 0;
  for (const next of wanted) {
    while (character < next && unit < text.length) {
      unit += text.codePointAt(unit)! > 0xffff ? 2 : 1;
      character += 1;
    }
    if (character === next) units.set(next, unit);
  }
  return units;
}

/** The smallest single edit that makes `after` of `before`. */
export function editBetween(before: string, after: string): Edit {
  const shorter = Math.min(before.length, after.length);
  let at = 0;
  while (at < shorter && before.charCodeAt(at) === after.charCodeAt(at)) at += 1;
  let tail = 0;
  while (
    tail < shorter - at &&
    before.charCodeAt(before.length - 1 - tail) === after.charCodeAt(after.length - 1 - tail)
  ) {
    tail += 1;
  }
  return { at, removed: before.length - at - tail, inserted: after.slice(at, after.length - tail) };
}

/**
 * Where the marks of `before` are in `after`, until a model has seen it.
 *
 * A mark behind the edit moves with its text; one that was edited keeps what is left of it. A mark at whose end a word
 * goes on goes on with it ("Lond" + "on"), and one into which a gap was typed ends there.
 */
export function moved(marks: readonly Mark[], before: string, after: string): Mark[] {
  if (before === after) return [...marks];
  const { at, removed, inserted } = editBetween(before, after);
  const behind = at + removed;
  const shift = inserted.length - removed;
  const kept: Mark[] = [];
  for (const mark of marks) {
    let { start, end } = mark;
    if (end <= at) {
      if (end === at && WORD.test(before.slice(end - 1, end))) end += LEADING_WORD.exec(inserted)?.[0].length ?? 0;
    } else if (start >= behind) {
      start += shift;
      end += shift;
    } else {
      if (start >= at && end <= behind) continue; // replaced as a whole
      start = start <= at ? start : at + inserted.length;
      end = end < behind || /\s/.test(inserted) ? at : end + shift;
    }
    if (start < end) kept.push({ ...mark, start, end });
  }
  return kept;
}
