// SPDX-License-Identifier: Apache-2.0
#include "launch/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "launch/open_mpi.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

constexpr double stopped_limit = 4;  // seconds that mpirun or a rank may be stopped (SIGSTOP)
constexpr double grace = 2;          // seconds between SIGTERM and SIGKILL

std::vector<std::string> command_line(const RunConfig& config, const LaunchOptions& options,
                                      const fs::path& plan) {
  std::vector<std::string> words;
  if (config.simulated()) {
    words = {options.program.parent_path() / "dsgd-sim", plan.string(), options.part.string()};
    if (!options.data_dir.empty()) words.push_back(options.data_dir.string());
    return words;
  }
  words = starter(config.ranks(), options.launcher);
  words.push_back(options.program.string());
  words.insert(words.end(), options.task.begin(), options.task.end());
  if (!options.task.empty()) return words;
  for (const std::string& word : {std::string("rank"), plan.string(), options.part.string()})
    words.push_back(word);
  if (!options.data_dir.empty()) words.insert(words.end(), {"--data-dir", options.data_dir.string()});
  return words;
}

// A folder for all that Open MPI keeps while a job runs: session directory and shared memory. It goes with
// the job. The lock tells later starts whether its owner is alive, in whatever container: what a killed one
// left behind, they remove.
class JobFolder {
 public:
  JobFolder() {
    std::error_code none;
    for (const fs::path& base : {fs::path("/dev/shm"), fs::temp_directory_path(none), fs::path("/tmp")}) {
      if (base.empty()) continue;  // $TMPDIR is no folder
      for (const auto& entry : fs::directory_iterator(base, none))
        if (const std::string name = entry.path().filename();
            name.starts_with(prefix) && name.size() == prefix.size() + 6)
          if (const int fd = lock(entry.path()); fd >= 0) {
            fs::remove_all(entry.path(), none);
            ::close(fd);
          }
      const fs::space_info room = fs::space(base, none);
      std::string name = (base / prefix).string() + "XXXXXX";
      if (none || room.available < mpirun_room || !mkdtemp(name.data())) continue;
      path_ = name;
      fd_ = lock(path_);
      if (fd_ >= 0 && fs::exists(path_, none)) return;
    }
    throw std::runtime_error(
        fmt::format("Open MPI needs a folder for temporary files that can be written to and has {} MiB free: "
                    "/dev/shm, $TMPDIR or /tmp",
                    mpirun_room >> 20));
  }
  ~JobFolder() {
    std::error_code none;
    fs::remove_all(path_, none);
    ::close(fd_);
  }
  JobFolder(const JobFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  static constexpr std::string_view prefix = "dsgd-job-";
  // A descriptor that holds the lock; -1 where the folder is another user's or in use.
  static int lock(const fs::path& folder) {
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || (fstat(fd, &status) == 0 && status.st_uid == geteuid() && !flock(fd, LOCK_EX | LOCK_NB)))
      return fd;
    ::close(fd);
    return -1;
  }
  fs::path path_;
  int fd_ = -1;
};

// A child whose stdout and stderr are read line by line.
class Job {
 public:
  // `folder`: for Open MPI's files; empty: where it likes.
  Job(const std::vector<std::string>& words, const fs::path& folder) {
    int out[2], err[2];
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
      throw std::runtime_error(fmt::format("pipe: {}", std::strerror(errno)));
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ < 0) throw std::runtime_error(fmt::format("fork: {}", std::strerror(errno)));
    if (pid_ == 0) {
      setpgid(0, 0);  // Ctrl-C reaches dsgd alone, which ends the job in good order
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(1);
      setenv("OMP_NUM_THREADS", "1", 0);  // one thread a rank
      set_mpirun_variables(folder);
      dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(err[1], STDERR_FILENO);
      execvp(argv[0], argv.data());
      fmt::print(stderr, "{}: {}{}\n", argv[0], std::strerror(errno),
                 words[0] == "mpirun" ? " (is Open MPI installed? Debian: openmpi-bin)" : "");
      _exit(127);
    }
    ::close(out[1]);
    ::close(err[1]);
    streams_[0].fd = out[0];
    streams_[1].fd = err[0];
    for (Stream& s : streams_) fcntl(s.fd, F_SETFL, O_NONBLOCK);
  }
  ~Job() {
    for (Stream& s : streams_)
      if (s.fd >= 0) ::close(s.fd);
  }

  pid_t pid() const { return pid_; }

  // Waits that long for output; hands every complete line to `line(text, is_stderr)`.
  template <typename Line>
  void poll_output(Line line, int milliseconds) {
    pollfd fds[2] = {{streams_[0].fd, POLLIN, 0}, {streams_[1].fd, POLLIN, 0}};
    if (::poll(fds, 2, milliseconds) <= 0) return;
    for (int i = 0; i < 2; ++i) {
      Stream& s = streams_[i];
      if (s.fd < 0 || !fds[i].revents) continue;
      char chunk[4096];
      const ssize_t got = ::read(s.fd, chunk, sizeof chunk);
      if (got > 0) s.text.append(chunk, std::size_t(got));
      for (std::size_t end; (end = s.text.find('\n')) != std::string::npos; s.text.erase(0, end + 1))
        line(s.text.substr(0, end), i == 1);
      if (got == 0) {
        ::close(s.fd);
        s.fd = -1;
      }
    }
  }

  bool ended() {
    if (!reaped_ && waitpid(pid_, &status_, WNOHANG) == pid_) reaped_ = true;
    return reaped_;
  }
  int status() const { return status_; }

  void end() {
    kill(pid_, SIGTERM);  // lets mpirun end its ranks and clean up
    kill(pid_, SIGCONT);  // if it is stopped
    for (const auto begun = Clock::now(); !ended() && since(begun) < grace;)
      poll_output([](const std::string&, bool) {}, 100);
    if (!ended()) {
      kill(pid_, SIGKILL);  // the ranks follow: die_with_parent
      waitpid(pid_, &status_, 0);
      reaped_ = true;
    }
  }

 private:
  struct Stream {
    int fd = -1;
    std::string text;
  };
  pid_t pid_ = -1;
  Stream streams_[2];
  int status_ = 0;
  bool reaped_ = false;
};

// Whether a child of `parent` is stopped. Ranks on other hosts can't be seen.
bool is_stopped(long pid, pid_t parent) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return false;
  std::istringstream fields(text.substr(name_end + 1));
  char state = '?';
  long ppid = 0;
  fields >> state >> ppid;
  return ppid == parent && (state == 'T' || state == 't');
}

// The sentence of mpirun's or a rank's last words that says why the job ended.
std::string cause(const std::string& starter, const std::vector<std::string>& errors, int status) {
  for (const std::string& line : errors)
    if (line.starts_with("rank ") || line.starts_with("dsgd: ")) return line;
  if (const auto killed = killed_rank(errors)) return *killed;
  std::string words;
  for (const std::string& line : errors)
    if (line.find_first_not_of("- ") != std::string::npos) words += (words.empty() ? "" : " ") + line;
  const std::string how = WIFSIGNALED(status)
                              ? fmt::format("{} was ended by signal {} ({})", starter, WTERMSIG(status),
                                            strsignal(WTERMSIG(status)))
                              : fmt::format("{} ended with exit code {}", starter, WEXITSTATUS(status));
  return words.empty() ? how : how + ": " + words.substr(0, 600);
}

}  // namespace

std::vector<std::string> starter(int ranks, const std::string& launcher) {
  if (launcher.empty()) return mpirun(ranks);
  std::vector<std::string> words;
  std::istringstream in(launcher);
  for (std::string word; in >> word;) words.push_back(word == "{ranks}" ? std::to_string(ranks) : word);
  return words;
}

std::vector<std::string> output_of(const std::vector<std::string>& words, double seconds) {
  std::optional<JobFolder> folder;
  if (words.front() == "mpirun") folder.emplace();
  Job job(words, folder ? folder->path() : fs::path());
  std::vector<std::string> lines, errors;
  const auto read = [&](const std::string& line, bool is_error) {
    (is_error ? errors : lines).push_back(line);
  };
  for (const auto begun = Clock::now(); !job.ended(); job.poll_output(read, 100))
    if (since(begun) > seconds) {
      job.end();
      throw std::runtime_error(fmt::format("{}: not done after {:g} s", words.front(), seconds));
    }
  for (int i = 0; i < 100; ++i) job.poll_output(read, 0);  // what is left
  if (job.status()) throw std::runtime_error(cause(fs::path(words.front()).filename(), errors, job.status()));
  return lines;
}

void die_with_parent(int signal) {
  prctl(PR_SET_PDEATHSIG, signal);
  if (getppid() == 1) std::_Exit(1);
}

class Launch::State {
 public:
  State(const RunConfig& config, const LaunchOptions& options, std::function<void(const Progress&)> progress)
      : plan_(options.part.string() + ".toml"),
        progress_(std::move(progress)),
        time_limit_(config.settings.number("time_limit")),
        setup_limit_(config.settings.number("setup_limit")),
        stall_limit_(config.settings.number("stall_limit")) {
    {
      std::ofstream out(plan_.path);
      out << config.text();
      if (!out.flush())
        throw std::runtime_error(fmt::format("{}: {}", plan_.path.string(), std::strerror(errno)));
    }
    if (options.launcher.empty() && !config.simulated())
      folder_.emplace();  // other launchers' ranks may be on other hosts
    const std::vector<std::string> words = command_line(config, options, plan_.path);
    starter_ = fs::path(words[0]).filename();
    job_.emplace(words, folder_ ? folder_->path() : fs::path());
  }

  std::optional<LaunchEnd> watch(bool interrupted, int milliseconds) {
    using Kind = LaunchEnd::Kind;
    const bool gone = job_->ended();
    job_->poll_output([&](const std::string& line, bool is_error) { read(line, is_error); }, milliseconds);
    if (gone) {
      if (WIFEXITED(job_->status()) && WEXITSTATUS(job_->status()) == 0) return LaunchEnd{Kind::finished, ""};
      return LaunchEnd{Kind::failed, cause(starter_, errors_, job_->status())};
    }
    LaunchEnd end;
    if (interrupted) {
      end = {Kind::interrupted, "interrupted by the user"};
    } else if (since(begun_) > time_limit_) {
      end = {Kind::timeout, fmt::format("not done after {:g} s (time_limit)", time_limit_)};
    } else if (!training_ && since(begun_) > setup_limit_) {
      end = {Kind::timeout, fmt::format("not ready to train after {:g} s (setup_limit)", setup_limit_)};
    } else if (training_ && since(last_sign_) > stall_limit_) {
      end = {Kind::timeout, fmt::format("no rank made progress for {:.0f} s (stall_limit)", stall_limit_)};
    }
    const auto check = [&](const std::string& name, long pid, pid_t parent) {
      if (!is_stopped(pid, parent))
        stopped_.erase(name);
      else if (since(stopped_.try_emplace(name, Clock::now()).first->second) > stopped_limit)
        end = {Kind::timeout, fmt::format("{} (process {}) is stopped", name, pid)};
    };
    check(starter_, job_->pid(), getpid());
    for (const auto& [rank, p] : ranks_) check(fmt::format("rank {}", rank), p.pid, job_->pid());
    if (end.reason.empty()) return std::nullopt;
    if (const auto p = ranks_.find(0); p != ranks_.end())
      end.reason += fmt::format("; rank 0 was last heard in phase {} at {} {}", p->second.phase,
                                p->second.used, p->second.phase == "score" ? "snapshots" : "samples");
    job_->end();
    return end;
  }

 private:
  void read(const std::string& line, bool is_error) {
    if (const auto p = parse_progress(line)) {
      last_sign_ = Clock::now();
      if (p->phase == "train") {
        training_ = true;
        stall_limit_ = std::max(stall_limit_, 10 * p->gradient_s);  // slow steps are not stalls
      }
      ranks_[p->rank] = *p;
      progress_(*p);
    } else if (is_error && errors_.size() < 200) {
      errors_.push_back(line);
    }
  }

  struct PlanFile {
    explicit PlanFile(const fs::path& file) : path(file) {}
    PlanFile(const PlanFile&) = delete;
    ~PlanFile() {
      std::error_code ignored;
      fs::remove(path, ignored);
    }
    const fs::path path;
  };
  const PlanFile plan_;
  std::optional<JobFolder> folder_;
  std::string starter_;
  std::optional<Job> job_;
  std::function<void(const Progress&)> progress_;
  const double time_limit_, setup_limit_;
  double stall_limit_;
  const Clock::time_point begun_ = Clock::now();
  Clock::time_point last_sign_ = begun_;
  bool training_ = false;
  std::map<int, Progress> ranks_;
  std::map<std::string, Clock::time_point> stopped_;
  std::vector<std::string> errors_;
};

std::string check_platform(const RunConfig& config, const fs::path& program) {
  std::string plan = (fs::temp_directory_path() / "dsgd-plan-XXXXXX").string();
  const int file = mkstemp(plan.data());
  const std::string text = config.text();
  const bool written = file >= 0 && ::write(file, text.data(), text.size()) == ssize_t(text.size());
  if (file < 0 || !written) throw std::runtime_error(fmt::format("{}: {}", plan, std::strerror(errno)));
  ::close(file);
  Job job({program.parent_path() / "dsgd-sim", "--check", plan}, fs::path());
  std::vector<std::string> errors;
  const auto read = [&](const std::string& line, bool is_error) {
    if (is_error) errors.push_back(line);
  };
  while (!job.ended()) job.poll_output(read, 100);
  job.poll_output(read, 100);
  fs::remove(plan);
  return job.status() == 0 ? "" : cause("dsgd-sim", errors, job.status());
}

Launch::Launch(const RunConfig& config, const LaunchOptions& options,
               std::function<void(const Progress&)> progress)
    : state_(std::make_unique<State>(config, options, std::move(progress))) {}
Launch::~Launch() = default;
std::optional<LaunchEnd> Launch::watch(bool interrupted, int milliseconds) {
  return state_->watch(interrupted, milliseconds);
}

}  // namespace dsgd
