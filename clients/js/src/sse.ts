// Server-sent events, from text as it arrives (WHATWG HTML, section 9.2.6), without `EventSource`: that one can neither send a
// token nor say why it was refused, and Node has none.

/** What a stream says. */
export interface Events {
  onEvent(data: string, id: string | undefined): void;
  onComment(): void;
  /** So many milliseconds behind its end a client may come back. */
  onRetry(ms: number): void;
}

/** Returns what to call with each piece of text. */
export const sseParser = ({ onEvent, onComment, onRetry }: Events) => {
  let rest = "";
  let isHalf = false;
  let data: string[] = [];
  let id: string | undefined;
  return (text: string): void => {
    // Most pieces of a long line have no end in them: looking through all that came before for each would take its square.
    if (!isHalf && !/[\r\n]/.test(text)) {
      rest += text;
      return;
    }
    isHalf = text.endsWith("\r");
    // A carriage return at the end may be half of a line's end: it waits for what follows.
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) onEvent(data.join("\n"), id);
        data = [];
      } else if (line[0] === ":") {
        onComment();
      } else {
        const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
        if (name === "data") data.push(value);
        if (name === "id") id = value;
        if (name === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
      }
    }
  };
};
