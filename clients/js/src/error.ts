/** What went wrong, for programs (`code`) and for people (`message`). */
export class TelecastError extends Error {
  override readonly name = "TelecastError";
  /**
   * A code of docs/protocol.md (`bad_filter`, …), or one of this client: `closed`, `token`, `unreadable`; `policy`, where the page's
   * policy forbids the connection; `refused_page`, where the node answers, but not to pages of this origin.
   */
  readonly code: string;
  /** The client has given up: every further attempt would end the same way. */
  readonly fatal: boolean;

  constructor(code: string, message: string, fatal = false) {
    super(message);
    this.code = code;
    this.fatal = fatal;
  }
}

/** Has the fault of somebody's function be seen as uncaught, without ending what called it. */
export const report = (error: unknown): void =>
  queueMicrotask(() => {
    throw error;
  });
