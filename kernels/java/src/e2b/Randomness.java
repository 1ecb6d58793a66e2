package e2b;

import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Random;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Random numbers of this process's own. A copy of a running process shares every state in its memory: those that
 * live on are set anew from the operating system. `SecureRandom` asks the system itself.
 */
final class Randomness {
  private Randomness() {}

  /** Needs java.lang and java.util.concurrent opened. */
  static void renew() throws ReflectiveOperationException, IOException {
    try (InputStream system = Files.newInputStream(Path.of("/dev/urandom"))) {
      Field shared =
          field(Class.forName("java.lang.Math$RandomNumberGeneratorHolder"), "randomNumberGenerator");
      ((Random) shared.get(null)).setSeed(next(system));
      ((AtomicLong) field(ThreadLocalRandom.class, "seeder").get(null)).set(next(system));
      Field ofThread = field(Thread.class, "threadLocalRandomSeed");
      for (Thread thread : Thread.getAllStackTraces().keySet()) ofThread.setLong(thread, next(system));
    }
  }

  private static Field field(Class<?> owner, String name) throws NoSuchFieldException {
    Field field = owner.getDeclaredField(name);
    field.setAccessible(true);
    return field;
  }

  private static long next(InputStream system) throws IOException {
    return ByteBuffer.wrap(system.readNBytes(Long.BYTES)).getLong();
  }
}
