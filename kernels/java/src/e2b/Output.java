package e2b;

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;

/** What the code and programs that it starts write to the standard streams, gathered into messages of a useful size. */
final class Output {
  private static final int MAX_CHARACTERS = 64 * 1024;
  private static final int MAX_AGE_MS = 50;
  private static final long SHORTEST_PROGRAM_NANOS = 200_000;

  private final BiConsumer<String, String> emit;
  private final StringBuilder text = new StringBuilder();
  private final List<InheritedStream> inherited = new ArrayList<>();
  private String name = "stdout";
  private volatile long printedNanos = System.nanoTime();

  /** Takes over both streams. */
  Output(BiConsumer<String, String> emit) {
    this.emit = emit;
    System.setOut(new PrintStream(new OwnStream("stdout"), true, StandardCharsets.UTF_8));
    System.setErr(new PrintStream(new OwnStream("stderr"), true, StandardCharsets.UTF_8));
    ScheduledExecutorService clock =
        Executors.newSingleThreadScheduledExecutor(task -> {
          Thread thread = new Thread(task, "output");
          thread.setDaemon(true);
          return thread;
        });
    clock.scheduleWithFixedDelay(this::flush, MAX_AGE_MS, MAX_AGE_MS, TimeUnit.MILLISECONDS);
  }

  /** From now on also what comes to the process's own streams, whose read ends are these descriptors. */
  void follow(int stdout, int stderr) throws IOException {
    inherited.add(new InheritedStream(stdout, 1, new Stream("stdout")));
    inherited.add(new InheritedStream(stderr, 2, new Stream("stderr")));
  }

  /** All that was written until now is sent. */
  void settle() {
    inherited.forEach(InheritedStream::drain);
    flush();
  }

  synchronized void flush() {
    if (text.length() == 0) return;
    String whole = text.toString();
    text.setLength(0);
    // The end of the last line comes by itself, as clients know it from the kernels before this one.
    boolean isLine = whole.length() > 1 && whole.endsWith("\n");
    int end = isLine ? whole.length() - 1 : whole.length();
    emit.accept(name, whole.substring(0, end));
    if (isLine) emit.accept(name, "\n");
  }

  private synchronized void append(String stream, CharSequence more) {
    if (!stream.equals(name)) flush();
    name = stream;
    text.append(more);
    if (text.length() >= MAX_CHARACTERS) flush();
  }

  /**
   * What the code itself prints comes after what programs have written before. Between two prints in quick succession no
   * program can have run to its end.
   */
  private final class OwnStream extends Stream {
    OwnStream(String stream) {
      super(stream);
    }

    @Override
    public void write(byte[] bytes, int offset, int length) {
      boolean isLater = System.nanoTime() - printedNanos > SHORTEST_PROGRAM_NANOS;
      for (InheritedStream each : inherited) if (isLater || each.isBehind()) each.drain();
      super.write(bytes, offset, length);
      printedNanos = System.nanoTime();
    }
  }

  private class Stream extends OutputStream {
    private final String stream;
    private final CharsetDecoder decoder =
        StandardCharsets.UTF_8
            .newDecoder()
            .onMalformedInput(CodingErrorAction.REPLACE)
            .onUnmappableCharacter(CodingErrorAction.REPLACE);
    private byte[] rest = new byte[0];

    Stream(String stream) {
      this.stream = stream;
    }

    @Override
    public void write(int one) {
      write(new byte[] {(byte) one}, 0, 1);
    }

    /** Bytes of a character that is not complete yet wait for the others. */
    @Override
    public synchronized void write(byte[] bytes, int offset, int length) {
      ByteBuffer in = ByteBuffer.allocate(rest.length + length).put(rest).put(bytes, offset, length).flip();
      CharBuffer out = CharBuffer.allocate(in.remaining() + 1);
      decoder.decode(in, out, false);
      rest = new byte[in.remaining()];
      in.get(rest);
      append(stream, out.flip());
    }
  }
}
