/** What went wrong, for programs (`code`) and for people (`message`). */
export class TelecastError extends Error {
  override readonly name = "TelecastError";
  /** A code of docs/protocol.md (`bad_filter`, …), or one of this client: `closed`, `token`, `unreadable`. */
  readonly code: string;
  /** The client has given up: every further attempt would end the same way. */
  readonly fatal: boolean;

  constructor(code: string, message: string, fatal = false) {
    super(message);
    this.code = code;
    this.fatal = fatal;
  }
}
