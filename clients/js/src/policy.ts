/** A violation is reported a little behind the failure it caused. */
const REPORT_MS = 50;

const originOf = (url: string): string => (URL.canParse?.(url) ? new URL(url).origin : url);

/**
 * Watches whether the page's Content-Security-Policy forbids a connection: it then fails as if the network did, but the page is told
 * apart from that. Call what is returned when the connection has failed (`true`) or needs no watching any more.
 */
export const watchPolicy = (url: string): ((failed: boolean) => Promise<string | undefined>) => {
  const target = ((globalThis as { document?: Document }).document ?? globalThis) as Partial<EventTarget>;
  const isPage = "location" in globalThis && target.addEventListener !== undefined;
  let isForbidden = false;
  const onViolation = ((event: SecurityPolicyViolationEvent) => {
    const { blockedURI, effectiveDirective, disposition } = event;
    if (disposition !== "report" && effectiveDirective === "connect-src" && originOf(blockedURI) === originOf(url))
      isForbidden = true;
  }) as EventListener;
  if (isPage) target.addEventListener?.("securitypolicyviolation", onViolation);
  return async (failed) => {
    if (failed && isPage) await new Promise((done) => setTimeout(done, REPORT_MS));
    if (isPage) target.removeEventListener?.("securitypolicyviolation", onViolation);
    return isForbidden
      ? `the page's Content-Security-Policy forbids ${originOf(url)}: add it to \`connect-src\`, which needs ws: addresses beside http: ones`
      : undefined;
  };
};
