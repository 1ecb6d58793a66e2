package e2b;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandomParameters;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Random numbers of this process's own. A copy of a running process shares every state in its memory: those that
 * live on are set anew from the operating system. The class library keeps them in private fields, which needs
 * java.lang, java.util, java.util.concurrent, sun.security.provider and jdk.random opened.
 */
final class Randomness {
  /** Each has a static counter from which new generators take their seed. */
  private static final List<String> SEEDERS =
      List.of(
          "java.util.Random",
          "java.util.SplittableRandom",
          "java.util.concurrent.ThreadLocalRandom",
          "jdk.random.L32X64MixRandom",
          "jdk.random.L64X128MixRandom",
          "jdk.random.L64X128StarStarRandom",
          "jdk.random.L64X256MixRandom",
          "jdk.random.L64X1024MixRandom",
          "jdk.random.L128X128MixRandom",
          "jdk.random.L128X256MixRandom",
          "jdk.random.L128X1024MixRandom",
          "jdk.random.Xoroshiro128PlusPlus",
          "jdk.random.Xoshiro256PlusPlus");

  private static final List<String> SYSTEM_GENERATORS =
      List.of("NativePRNG", "NativePRNG$Blocking", "NativePRNG$NonBlocking");
  private static final String SECURITY = "sun.security.provider.";
  private static final int SEED_BYTES = 48;

  private interface Step {
    void run() throws Exception;
  }

  private Randomness() {}

  /** A state that this version of Java keeps elsewhere does not stop the others from being renewed. */
  static void renew() {
    for (String name : SEEDERS) attempt(() -> renewCounters(Class.forName(name)));
    attempt(() -> renewShared(Class.forName("java.lang.Math$RandomNumberGeneratorHolder")));
    attempt(() -> renewShared(Collections.class));
    attempt(Randomness::renewThreads);
    attempt(Randomness::renewDrbg);
    attempt(Randomness::renewSha1);
    for (String name : SYSTEM_GENERATORS) attempt(() -> forgetReadAhead(Class.forName(SECURITY + name)));
  }

  private static void attempt(Step step) {
    try {
      step.run();
    } catch (Exception unknown) {
      // Told by the tests, which compare the clones of each generator.
    }
  }

  private static void renewCounters(Class<?> owner) throws Exception {
    for (Field field : owner.getDeclaredFields()) {
      if (field.getType() == AtomicLong.class && Modifier.isStatic(field.getModifiers())) {
        ((AtomicLong) opened(field).get(null)).set(next());
      }
    }
  }

  /** The generator behind `Math.random` and `Collections.shuffle`. */
  private static void renewShared(Class<?> owner) throws Exception {
    for (Field field : owner.getDeclaredFields()) {
      if (field.getType() == Random.class && opened(field).get(null) instanceof Random shared) {
        shared.setSeed(next());
      }
    }
  }

  private static void renewThreads() throws Exception {
    Field seed = opened(Thread.class.getDeclaredField("threadLocalRandomSeed"));
    for (Thread thread : Thread.getAllStackTraces().keySet()) seed.setLong(thread, next());
  }

  /** The generator that seeds new ones lives in a function that takes it along. */
  private static void renewDrbg() throws Exception {
    Object source = staticOf(Class.forName(SECURITY + "AbstractDrbg$SeederHolder"), "seeder");
    Method reseed = method("AbstractDrbg", "engineReseed", SecureRandomParameters.class);
    for (Field captured : source.getClass().getDeclaredFields()) {
      reseed.invoke(opened(captured).get(source), (Object) null);
    }
  }

  private static void renewSha1() throws Exception {
    Object seeder = staticOf(Class.forName(SECURITY + "SecureRandom$SeederHolder"), "seeder");
    method("SecureRandom", "engineSetSeed", byte[].class).invoke(seeder, (Object) fromSystem(SEED_BYTES));
  }

  /** `new SecureRandom()` reads the system's numbers a little ahead. */
  private static void forgetReadAhead(Class<?> owner) throws Exception {
    Object system = staticOf(owner, "INSTANCE");
    if (system != null) opened(system.getClass().getDeclaredField("lastRead")).setLong(system, 0);
  }

  private static Object staticOf(Class<?> owner, String name) throws ReflectiveOperationException {
    return opened(owner.getDeclaredField(name)).get(null);
  }

  private static Method method(String owner, String name, Class<?> parameter) throws ReflectiveOperationException {
    Method method = Class.forName(SECURITY + owner).getDeclaredMethod(name, parameter);
    method.setAccessible(true);
    return method;
  }

  private static Field opened(Field field) {
    field.setAccessible(true);
    return field;
  }

  static long next() {
    return ByteBuffer.wrap(fromSystem(Long.BYTES)).getLong();
  }

  private static byte[] fromSystem(int bytes) {
    try (var system = Files.newInputStream(Path.of("/dev/urandom"))) {
      return system.readNBytes(bytes);
    } catch (IOException failure) {
      throw new UncheckedIOException(failure);
    }
  }
}
