/** Two views, one at a time, as the ARIA pattern for tabs has it: arrow keys, Home, End; the address names the view. */

export class Tabs {
  private readonly tabs: HTMLElement[];

  constructor(list: HTMLElement) {
    this.tabs = [...list.querySelectorAll<HTMLElement>("[role=tab]")];
    for (const tab of this.tabs) {
      tab.addEventListener("click", () => this.go(tab));
      tab.addEventListener("keydown", (event) => this.onKey(event, tab));
    }
    addEventListener("hashchange", () => this.follow());
    this.follow();
  }

  /** Shows the view of this name, unless the address asks for one. */
  prefer(name: string): void {
    if (location.hash === "") this.select(this.named(name));
  }

  private named(name: string): HTMLElement {
    return this.tabs.find((tab) => tab.id === `tab-${name}`) ?? this.tabs[0]!;
  }

  private follow(): void {
    this.select(this.named(location.hash.slice(1)));
  }

  private go(tab: HTMLElement): void {
    location.hash = tab.id.replace("tab-", "");
    this.select(tab);
  }

  private select(chosen: HTMLElement): void {
    for (const tab of this.tabs) {
      tab.ariaSelected = String(tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")!)!.hidden = tab !== chosen;
    }
  }

  private onKey(event: KeyboardEvent, tab: HTMLElement): void {
    const at = this.tabs.indexOf(tab);
    const count = this.tabs.length;
    const next: Record<string, number> = {
      ArrowRight: (at + 1) % count,
      ArrowLeft: (at + count - 1) % count,
      Home: 0,
      End: count - 1,
    };
    const wanted = next[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    this.go(this.tabs[wanted]!);
    this.tabs[wanted]!.focus();
  }
}
