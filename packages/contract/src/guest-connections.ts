/**
 * Until TCP asks the other end of a kept connection to a sandbox whether it is there, in milliseconds; ten questions in as
 * many seconds without an answer end it. Node's own is a second, which takes a guest for gone that stands still while its
 * memory is written, or has none left to answer with. That a sandbox ends is known without TCP.
 */
export const GUEST_PROBED_AFTER_MS = 3_600_000
