package e2b;

import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.security.SecureRandom;
import java.util.Arrays;

/**
 * A standard stream of the process, whose read end this process has as well: what programs write that inherit it
 * (`ProcessBuilder.inheritIO()`), and what the virtual machine itself says.
 */
final class InheritedStream {
  private static final int PIECE_BYTES = 64 * 1024;
  private static final int PREFIX_BYTES = 16;
  private static final int MARK_BYTES = PREFIX_BYTES + Long.BYTES;
  private static final long MAX_WAIT_MS = 1000;

  private final FileInputStream in;
  private final FileOutputStream out;
  private final OutputStream sink;
  /**
   * A mark, this and a number, shows in the stream how far it has been read; small enough that nothing gets into the
   * middle of it. Numbered, because an interrupt may keep one from being written.
   */
  private final byte[] prefix = new byte[PREFIX_BYTES];
  private long written;
  private long seen;
  private volatile boolean isPassing;

  /** What comes out of the descriptor `readEnd` goes to `sink`; `writeEnd` is the other end. */
  InheritedStream(int readEnd, int writeEnd, OutputStream sink) throws IOException {
    in = new FileInputStream("/proc/self/fd/" + readEnd);
    out = new FileOutputStream("/proc/self/fd/" + writeEnd);
    this.sink = sink;
    new SecureRandom().nextBytes(prefix);
    prefix[0] = (byte) 0xff;
    Thread thread = new Thread(this::follow, "inherited-" + writeEnd);
    thread.setDaemon(true);
    thread.start();
  }

  /** Returns when what was written until now has been passed on, or a reader is so slow that waiting is no use. */
  void drain() {
    try {
      long wanted;
      synchronized (this) {
        wanted = ++written;
      }
      out.write(ByteBuffer.allocate(MARK_BYTES).put(prefix).putLong(wanted).array());
      long end = System.nanoTime() + MAX_WAIT_MS * 1_000_000;
      synchronized (this) {
        for (long left = MAX_WAIT_MS; seen < wanted && left > 0; left = (end - System.nanoTime()) / 1_000_000) {
          wait(left);
        }
      }
    } catch (IOException gone) {
      // Without the stream nothing waits in it.
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  /** Whether something was written that has not been passed on. */
  boolean isBehind() {
    try {
      return isPassing || in.available() > 0;
    } catch (IOException gone) {
      return false;
    }
  }

  private void follow() {
    byte[] buffer = new byte[PIECE_BYTES];
    int kept = 0;
    try {
      for (int count; (count = in.read(buffer, kept, buffer.length - kept)) > 0; ) {
        isPassing = true;
        kept = pass(buffer, kept + count);
        isPassing = false;
      }
    } catch (IOException gone) {
      // The stream has ended.
    }
  }

  /** Passes on what is no mark. Keeps what may be the beginning of one, and answers how much that is. */
  private int pass(byte[] buffer, int length) throws IOException {
    int start = 0;
    int at = 0;
    while (at < length) {
      int matching = Arrays.mismatch(buffer, at, Math.min(at + PREFIX_BYTES, length), prefix, 0, PREFIX_BYTES);
      boolean isMark = matching < 0 && at + MARK_BYTES <= length;
      if (matching >= 0 && at + matching < length) {
        at++;
        continue;
      }
      sink.write(buffer, start, at - start);
      if (!isMark) {
        System.arraycopy(buffer, at, buffer, 0, length - at);
        return length - at;
      }
      synchronized (this) {
        seen = Math.max(seen, ByteBuffer.wrap(buffer, at + PREFIX_BYTES, Long.BYTES).getLong());
        notifyAll();
      }
      at += MARK_BYTES;
      start = at;
    }
    sink.write(buffer, start, length - start);
    return 0;
  }
}
