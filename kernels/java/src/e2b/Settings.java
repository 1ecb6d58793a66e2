package e2b;

import java.util.HashMap;
import java.util.Map;

/**
 * What the interpreter service asks of the kernel between cells: a silent request whose code is a comment with JSON.
 * Variables are system properties, because a process cannot change its own environment in Java.
 */
final class Settings {
  private static final String PREPARE = "//e2b.prepare ";
  private static final String RESTORE = "//e2b.restore";

  private final Runnable renewRandomness;
  private final Map<String, String> saved = new HashMap<>();

  /** The action makes random numbers this process's own, in the first cell of a copy. */
  Settings(Runnable renewRandomness) {
    this.renewRandomness = renewRandomness;
  }

  /** False when the code is not such a request. */
  boolean take(String code) throws Exception {
    if (code.startsWith(PREPARE)) {
      prepare(Json.parseObject(code.substring(PREPARE.length())));
      return true;
    }
    if (!code.startsWith(RESTORE)) return false;
    saved.forEach(Settings::set);
    saved.clear();
    return true;
  }

  private void prepare(Map<String, Object> wanted) throws Exception {
    if (wanted.get("cwd") instanceof String cwd) System.setProperty("user.dir", cwd);
    if (wanted.get("env") instanceof Map<?, ?> all) {
      all.forEach((name, value) -> set((String) name, (String) value));
    }
    if (wanted.get("runEnv") instanceof Map<?, ?> own) {
      saved.clear();
      own.forEach((name, value) -> {
        if (!((String) name).isEmpty()) saved.put((String) name, System.getProperty((String) name));
        set((String) name, (String) value);
      });
    }
    if (Boolean.TRUE.equals(wanted.get("reseed"))) renewRandomness.run();
  }

  private static void set(String name, String value) {
    if (name.isEmpty()) return;
    if (value == null) System.clearProperty(name);
    else System.setProperty(name, value);
  }
}
