// Named tests and the checks they make. A check that fails is printed with its values, and the test goes on.
#pragma once

#include <cmath>
#include <sstream>
#include <string>

namespace memfloor::test {

// Adds a test to those that main() runs.
struct Test {
  Test(const char* name, void (*body)());
};

// What is being tried, printed with every failure while this lives.
class Trying {
 public:
  template <class... Parts>
  explicit Trying(const Parts&... parts) {
    std::ostringstream text;
    ((text << parts << ' '), ...);
    enter(text.str());
  }
  ~Trying();
  Trying(const Trying&) = delete;
  Trying& operator=(const Trying&) = delete;

 private:
  static void enter(std::string what);
};

// Counts a failure. Checks belong to the main thread.
void fail(const char* file, int line, const std::string& what);

inline void check(bool holds, const char* text, const char* file, int line) {
  if (!holds) fail(file, line, text);
}

template <class A, class B>
void check_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return;
  std::ostringstream what;
  what << text << ": " << a << " is not " << b;
  fail(file, line, what.str());
}

// False for a NaN.
inline void check_near(double a, double b, double tolerance, const char* text, const char* file, int line) {
  if (std::fabs(a - b) <= tolerance) return;
  std::ostringstream what;
  what.precision(9);
  what << text << ": " << a << " is " << std::fabs(a - b) << " from " << b << ", beyond " << tolerance;
  fail(file, line, what.str());
}

template <class Error, class Body>
void check_throws(const Body& body, const char* text, const char* file, int line) {
  try {
    body();
  } catch (const Error&) {
    return;
  }
  fail(file, line, std::string(text) + " did not throw");
}

}  // namespace memfloor::test

#define TEST(name)                                              \
  static void name();                                           \
  static const memfloor::test::Test name##_test(#name, &name);  \
  static void name()
#define CHECK(condition) memfloor::test::check(condition, #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(a, b) memfloor::test::check_equal(a, b, #a " == " #b, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance) memfloor::test::check_near(a, b, tolerance, #a " ~ " #b, __FILE__, __LINE__)
#define CHECK_THROWS(error, ...) \
  memfloor::test::check_throws<error>([&] { __VA_ARGS__; }, #__VA_ARGS__, __FILE__, __LINE__)
