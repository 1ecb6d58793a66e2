package e2b;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.LongSupplier;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.ExpressionSnippet;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.CompletionInfo;
import jdk.jshell.UnresolvedReferenceException;
import jdk.jshell.VarSnippet;
import jdk.jshell.execution.LocalExecutionControlProvider;

/** Evaluates cells with the JDK's own shell, inside this process. */
final class Cells {
  private static final List<String> IMPORTS =
      List.of(
          "java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.time.*", "java.util.*",
          "java.util.concurrent.*", "java.util.function.*", "java.util.regex.*", "java.util.stream.*", "e2b.Display");
  private static final Pattern GENERATOR = Pattern.compile("(java\\.util\\.|java\\.security\\.)?(Secure)?Random");
  private static final Pattern LITERAL = Pattern.compile("\".*\"|'.*'", Pattern.DOTALL);
  private static final Set<String> TEXT_TYPES =
      Set.of("String", "char", "Character", "Object", "CharSequence", "Comparable<String>", "Serializable");
  private static final int MAX_SNIPPETS = 100_000;

  private final JShell shell =
      JShell.builder().executionEngine(new LocalExecutionControlProvider(), Map.of()).build();
  private volatile boolean isInterrupted;

  /** What came of a cell: the value of its last expression, or an error, or neither. */
  record Outcome(String value, Failure failure) {}

  record Failure(String name, String value, String traceback) {}

  private static final Outcome NOTHING = new Outcome(null, null);

  Cells(String classPath) {
    shell.addToClasspath(classPath);
    for (String name : IMPORTS) shell.eval("import " + name + ";");
  }

  Outcome run(String code) {
    isInterrupted = false;
    SourceCodeAnalysis analysis = shell.sourceCodeAnalysis();
    String rest = code;
    Outcome last = NOTHING;
    for (int count = 0; count < MAX_SNIPPETS && !rest.isBlank(); count++) {
      CompletionInfo info = analysis.analyzeCompletion(rest);
      boolean isComplete = info.completeness().isComplete() && info.source() != null;
      String source = isComplete ? info.source() : rest;
      rest = isComplete ? info.remaining() : "";
      last = outcomeOf(shell.eval(source));
      if (isInterrupted) return failed("Interrupted", "Execution was interrupted", "");
      if (last.failure() != null) return last;
    }
    return last;
  }

  /** Generators that the user keeps in variables of their own type go on with other numbers. */
  void reseedVariables(LongSupplier seeds) {
    for (VarSnippet variable : shell.variables().toList()) {
      if (!GENERATOR.matcher(variable.typeName()).matches()) continue;
      String name = variable.name();
      shell.eval("if (" + name + " != null) " + name + ".setSeed(" + seeds.getAsLong() + "L);");
    }
  }

  /** From any thread: ends the running cell. */
  void interrupt() {
    isInterrupted = true;
    shell.stop();
  }

  private Outcome outcomeOf(List<SnippetEvent> events) {
    Outcome outcome = NOTHING;
    for (SnippetEvent event : events) {
      if (event.causeSnippet() != null) continue;
      if (event.exception() != null) return thrown(event.exception());
      if (event.status() == Snippet.Status.REJECTED) return rejected(event.snippet());
      boolean isExpression =
          event.snippet().kind() == Snippet.Kind.EXPRESSION
              || event.snippet().subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
      outcome = isExpression && event.value() != null ? new Outcome(textOf(event), null) : NOTHING;
    }
    return outcome;
  }

  /** The shell gives texts and characters as they are written in code; here they are what they hold. */
  private static String textOf(SnippetEvent event) {
    String value = event.value();
    Snippet snippet = event.snippet();
    String type = snippet instanceof VarSnippet made ? made.typeName() : ((ExpressionSnippet) snippet).typeName();
    if (!TEXT_TYPES.contains(type) || !LITERAL.matcher(value).matches()) return value;
    try {
      return value.substring(1, value.length() - 1).translateEscapes();
    } catch (IllegalArgumentException noLiteral) {
      return value;
    }
  }

  private Outcome rejected(Snippet snippet) {
    List<String> lines = new ArrayList<>();
    String first = null;
    for (Diag diagnostic : shell.diagnostics(snippet).toList()) {
      if (!diagnostic.isError()) continue;
      String message = diagnostic.getMessage(Locale.ROOT);
      if (first == null) first = message.lines().findFirst().orElse(message);
      long start = Math.max(0, Math.min(diagnostic.getStartPosition(), snippet.source().length()));
      long line = snippet.source().substring(0, (int) start).lines().count();
      lines.add("line " + Math.max(1, line) + ": " + message);
    }
    String value = first == null ? "the code does not compile" : first;
    return failed("CompilationException", value, String.join("\n", lines) + "\n\n" + snippet.source());
  }

  private static Outcome thrown(JShellException exception) {
    if (exception instanceof EvalException own) {
      String message = own.getMessage() == null ? "" : own.getMessage();
      return failed(own.getExceptionClassName(), message, trace(own));
    }
    if (exception instanceof UnresolvedReferenceException unresolved) {
      String source = unresolved.getSnippet().source();
      return failed("UnresolvedReferenceException", "this code uses what is not declared yet", source);
    }
    return failed(exception.getClass().getName(), String.valueOf(exception.getMessage()), "");
  }

  private static String trace(EvalException exception) {
    String head = exception.getExceptionClassName();
    if (exception.getMessage() != null) head += ": " + exception.getMessage();
    String frames =
        Arrays.stream(exception.getStackTrace())
            .filter(frame -> !frame.getClassName().startsWith("jdk.internal."))
            .map(frame -> "\n    at " + place(frame))
            .collect(Collectors.joining());
    Throwable cause = exception.getCause();
    return head + frames + (cause instanceof EvalException inner ? "\nCaused by: " + trace(inner) : "");
  }

  /** The shell names the files of its snippets #1, #2 and so on. */
  private static String place(StackTraceElement frame) {
    String file = frame.getFileName();
    if (file == null || !file.startsWith("#")) return frame.toString();
    String cell = "cell:" + frame.getLineNumber();
    return frame.getMethodName().isEmpty() ? cell : frame.getMethodName() + " (" + cell + ")";
  }

  private static Outcome failed(String name, String value, String traceback) {
    return new Outcome(null, new Failure(name, value, traceback));
  }
}
