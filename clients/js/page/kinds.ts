/** What a model's labels are called on the page, and which of its five looks they get. */

export const KINDS = ["person", "organisation", "place", "date", "other"] as const;
export type Kind = (typeof KINDS)[number];

const BY_LABEL: Record<string, Kind> = {
  PER: "person",
  PERSON: "person",
  ORG: "organisation",
  ORGANIZATION: "organisation",
  LOC: "place",
  LOCATION: "place",
  GPE: "place",
  DATE: "date",
  TIME: "date",
};

const PLURAL: Record<Kind, string> = {
  person: "people",
  organisation: "organisations",
  place: "places",
  date: "dates",
  other: "others",
};

export function kindOf(entity: string): Kind {
  return BY_LABEL[entity.toUpperCase()] ?? "other";
}

/** The label in a word: "person", and a label the page does not know in its own letters. */
export function kindWord(entity: string): string {
  const kind = kindOf(entity);
  return kind === "other" ? entity.toLowerCase() : kind;
}

/** How many there are of each kind: "2 people, 1 place". */
export function countWords(entities: readonly string[]): string {
  const kinds = entities.map(kindOf);
  return KINDS.map((kind) => [kind, kinds.filter((other) => other === kind).length] as const)
    .filter(([, count]) => count > 0)
    .map(([kind, count]) => `${count} ${count === 1 ? kind : PLURAL[kind]}`)
    .join(", ");
}
