// Runs all tests, or those whose names hold one of the arguments.
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "kernels.h"

namespace memfloor::test {
namespace {

// More failures than this are counted, not printed.
constexpr int kPrinted = 40;

struct Named {
  const char* name;
  void (*body)();
};

std::vector<Named>& tests() {
  static std::vector<Named> all;
  return all;
}

std::vector<std::string> tried;
int failures = 0;

bool wanted(const std::string& name, int count, char** parts) {
  for (int i = 1; i < count; ++i) {
    if (name.find(parts[i]) != std::string::npos) return true;
  }
  return count == 1;
}

}  // namespace

Test::Test(const char* name, void (*body)()) { tests().push_back({name, body}); }

void Trying::enter(std::string what) { tried.push_back(std::move(what)); }

Trying::~Trying() { tried.pop_back(); }

void fail(const char* file, int line, const std::string& what) {
  if (++failures > kPrinted) return;
  std::printf("%s:%d: %s", file, line, what.c_str());
  for (const std::string& one : tried) std::printf(" | %s", one.c_str());
  std::printf("\n");
}

int run(int count, char** parts) {
  int ran = 0;
  std::printf("instruction sets:");
  for (const std::string& isa : usable_isas()) std::printf(" %s", isa.c_str());
  std::printf("\n");
  for (const Named& test : tests()) {
    if (!wanted(test.name, count, parts)) continue;
    const int before = failures;
    const auto start = std::chrono::steady_clock::now();
    test.body();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    ++ran;
    std::printf("%s %6.2f s %s\n", failures == before ? "ok    " : "FAILED", seconds.count(), test.name);
    std::fflush(stdout);
  }
  std::printf("%d tests, %d checks failed\n", ran, failures);
  return ran == 0 || failures != 0;
}

}  // namespace memfloor::test

int main(int count, char** parts) { return memfloor::test::run(count, parts); }
