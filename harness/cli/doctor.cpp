// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "config/cluster.h"
#include "device.h"
#include "fetch.h"
#include "launch/open_mpi.h"
#include "results/record.h"
#include "run/process.h"
#include "shared_memory.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;
using Findings = std::vector<Finding>;
constexpr double patience = 60;  // seconds for any one program

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

// What a program prints, or why it does not.
struct Answer {
  std::vector<std::string> lines;
  std::string why;
  std::string first() const { return lines.empty() ? "" : lines.front(); }
};
Answer ask(const std::vector<std::string>& words) {
  try {
    return {output_of(words, patience), ""};
  } catch (const std::runtime_error& e) {
    return {{}, e.what()};
  }
}

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

// Cores' worth of time that the container may use; none: as much as there is.
std::optional<double> quota() {
  std::istringstream in(first_line("/sys/fs/cgroup/cpu.max"));
  double used = 0, period = 0;
  if (in >> used >> period && period > 0) return used / period;
  return std::nullopt;
}

Finding processor() {
  const auto about = provenance_here();
  const auto cores = usable_cores();
  Finding f{Finding::good, "processor",
            fmt::format("{}, {} of {} cores for this program, instruction set {}",
                        std::get<std::string>(about.at("cpu")), cores.size(), to_string(about.at("cores")),
                        instruction_set())};
  if (const auto limit = quota()) {
    f.text += fmt::format(", time of {:.3g} cores", *limit);
    if (*limit < double(cores.size()))
      f.fix =
          "ranks are bound to cores but get less than a core each: give the container more, or use "
          "fewer ranks";
  }
  return f;
}

Finding room(const char* folder) {
  struct statvfs s {};
  if (statvfs(folder, &s)) return {Finding::absent, folder, "is not there"};
  const double free = double(s.f_bavail) * double(s.f_frsize), all = double(s.f_blocks) * double(s.f_frsize);
  Finding f{Finding::good, folder, fmt::format("{:.0f} of {:.0f} MiB free", free / 0x1p20, all / 0x1p20)};
  if (access(folder, W_OK))
    f = {Finding::absent, folder, "cannot be written to"};
  else if (free < mpirun_room)
    f.state = Finding::absent;
  if (f.state == Finding::absent)
    f.fix = fmt::format(
        "Open MPI keeps files of a run there where {} MiB are free: free or enlarge it{}, or set "
        "TMPDIR",
        mpirun_room >> 20, folder == std::string("/dev/shm") ? " (docker run --shm-size=256m)" : "");
  return f;
}

// The library, the program that starts ranks, and some ranks.
Findings mpi(int ranks, const LaunchOptions& options) {
  Findings all{
      {Finding::good, "MPI",
       fmt::format("{}, {}", World::library(),
                   World::cuda_aware() ? "CUDA-aware"
                                       : "not CUDA-aware: vectors of GPUs pass through the host's memory"),
       ""}};
  std::vector<std::string> words = starter(ranks, options.launcher);
  const Answer version = ask({words.front(), "--version"});
  all.push_back(
      {version.why.empty() ? Finding::good : Finding::absent, "launcher",
       fmt::format("{} ({})", fmt::join(words, " "), version.why.empty() ? version.first() : version.why)});
  words.insert(words.end(), {options.program.string(), "meet"});
  const Answer met = ask(words);
  for (const std::string& line : met.lines) all.push_back({Finding::good, "ranks", line});
  if (!met.why.empty())
    all.push_back({Finding::broken, "ranks", met.why,
                   "install Open MPI (Debian: openmpi-bin), or say how ranks are started here: --launcher "
                   "\"srun -n {ranks}\""});
  return all;
}

Findings networks() {
  Findings all;
  std::error_code none;
  std::set<fs::path> names;
  for (const auto& entry : fs::directory_iterator("/sys/class/net", none)) names.insert(entry.path());
  for (const fs::path& name : names) {
    if (first_line(name / "operstate") != "up") continue;
    const std::string speed = first_line(name / "speed");
    all.push_back({Finding::good, "network",
                   fmt::format("{}: {}", name.filename().string(),
                               speed.empty() || speed[0] == '-' ? "speed not known" : speed + " Mbit/s")});
  }
  return all;
}

Findings devices() {
  Findings all;
  for (const DeviceEntry& entry : all_devices()) {
    const std::string reason = entry.unavailable();
    all.push_back(
        {reason.empty() ? Finding::good : Finding::absent, "device " + entry.name,
         reason.empty() ? fmt::format("{} (library: {})", entry.summary, entry.make()->library()) : reason,
         reason.empty() && entry.lacks ? entry.lacks() : ""});
  }
  return all;
}

// What the system knows of NVIDIA's GPUs, whatever this program was built with.
Finding driver() {
  Finding f{Finding::good, "GPU driver", first_line("/proc/driver/nvidia/version")};
  if (f.text.empty()) {
    int cards = 0;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator("/sys/bus/pci/devices", none))
      cards += first_line(entry.path() / "vendor") == "0x10de" &&
               first_line(entry.path() / "class").starts_with("0x03");
    f = {Finding::absent, "GPU driver", "none, and no NVIDIA GPU on the PCI bus", ""};
    if (cards) {
      f.text = fmt::format("none for {} NVIDIA GPUs on the PCI bus", cards);
      f.fix = "install NVIDIA's driver (Debian: nvidia-driver)";
    }
  } else if (access("/dev/nvidiactl", R_OK | W_OK)) {
    f.state = Finding::absent;
    f.fix = "/dev/nvidiactl cannot be opened: start the container with GPUs (docker run --gpus all)";
  }
  return f;
}

Finding simulator(const fs::path& program) {
  const std::string use = "for engine = \"simulated\" ";
  if (const auto lack = no_simulator()) return {Finding::absent, "simulator", lack->why, use + lack->remedy};
  const Answer answer = ask({program.parent_path() / "dsgd-sim", "--version"});
  if (answer.why.empty()) return {Finding::good, "simulator", answer.first()};
  return {
      Finding::absent, "simulator", answer.why,
      use + "install the SimGrid that this program was built with (Debian: libsimgrid-dev), or build again"};
}

// One that `dsgd run` takes unless told otherwise, or another one.
Finding data_set(const DatasetEntry& entry, const fs::path& data_dir, bool ordinary) {
  try {
    return {Finding::good, "data " + entry.name, locate_dataset(entry, data_dir).string()};
  } catch (const std::runtime_error&) {
    return {ordinary ? Finding::broken : Finding::absent, "data " + entry.name, "not found", remedy(entry)};
  }
}

Findings data_sets(const fs::path& data_dir) {
  const auto key =
      std::find_if(run_keys().begin(), run_keys().end(), [](const RunKey& k) { return k.name == "dataset"; });
  Findings all;
  for (const DatasetEntry& entry : all_datasets())
    if (!entry.files.empty()) all.push_back(data_set(entry, data_dir, key->fallback == Value(entry.name)));
  return all;
}

Finding program(const std::string& what, const std::vector<std::string>& words, const std::string& fix) {
  const Answer answer = ask(words);
  return answer.why.empty()
             ? Finding{Finding::good, what, answer.first().substr(0, answer.first().find(" ("))}
             : Finding{Finding::absent, what, answer.why, fix};
}

std::string hdf5() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

// Seconds of one sum, the best of a few.
double sum_seconds(World& world, std::size_t n) {
  const Vec v = world.group().vector(n);
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    world.barrier();
    const double begun = world.now();
    world.group().sum(v);
    best = std::min(best, world.now() - begun);
  }
  return best;
}

// Where this rank is, and whether it can map what rank 0 made.
std::string place_of(World& world) {
  struct {
    SharedMemory::Handle handle;
    char host[256] = "";
  } offer;
  char own[256] = "";
  gethostname(own, sizeof own - 1);
  SharedMemory memory;
  if (world.rank() == 0) {
    memory = SharedMemory(sizeof offer);
    offer.handle = memory.handle();
    std::copy(std::begin(own), std::end(own), offer.host);
  }
  world.broadcast(&offer, sizeof offer, 0);
  std::string text = fmt::format("host {}, cores {}", own, fmt::join(usable_cores(), ","));
  try {
    if (world.rank() > 0 && std::string(own) == offer.host) {
      SharedMemory other(offer.handle);
      text += ", shares memory with rank 0";
    }
  } catch (const std::runtime_error& e) {
    text += fmt::format(
        ", does not see rank 0's memory ({}), so that vectors travel in messages: start ranks as one user in "
        "one process namespace",
        e.what());
  }
  world.barrier();
  return text;
}

}  // namespace

#ifndef DSGD_HAVE_CUDA
Findings gpu_findings() {
  return {{Finding::absent, "CUDA", "this program was built without",
           "install the CUDA toolkit and cuDNN 9 (and NCCL for several GPUs), and configure again"}};
}
#endif

void meet() {
  die_with_parent(SIGKILL);
  const auto world = World::open(0, 1);
  const std::string about = place_of(*world);
  constexpr std::size_t n = 1 << 20;
  const double seconds = sum_seconds(*world, n);
  const auto all = world->gather(std::as_bytes(std::span(about)));
  for (std::size_t r = 0; r < all.size(); ++r)
    fmt::print("rank {}: {}\n", r, std::string(reinterpret_cast<const char*>(all[r].data()), all[r].size()));
  if (world->rank() == 0 && world->size() > 1)
    fmt::print("a sum of 4 MiB over {} ranks takes {:.0f} us, best of 20\n", world->size(), seconds * 1e6);
}

int doctor(int ranks, const LaunchOptions& options) {
  Findings all{{Finding::good, "program", build_summary()}, processor(), room("/dev/shm"), room("/tmp")};
  const auto add = [&](const Findings& more) { all.insert(all.end(), more.begin(), more.end()); };
  add(mpi(ranks, options));
  add(networks());
  add(devices());
  all.push_back(driver());
  add(gpu_findings());
  all.push_back(simulator(options.program));
  all.push_back({Finding::good, "HDF5", hdf5()});
  add(data_sets(options.data_dir));
  all.push_back(
      program("downloads", {"curl", "--version"}, "for `dsgd data fetch` install curl (Debian: curl)"));
  all.push_back(program("plots",
                        {"/usr/bin/python3", "-c",
                         "import h5py, matplotlib, scipy; print('h5py', h5py.__version__ + ', Matplotlib', "
                         "matplotlib.__version__ + ', SciPy', scipy.__version__)"},
                        "for plots/ install h5py, Matplotlib and SciPy (Debian: python3-h5py "
                        "python3-matplotlib python3-scipy)"));

  constexpr const char* marks[] = {"ok", "-", "MISSING"};
  std::vector<std::string> broken;
  for (const Finding& f : all) {
    fmt::print("{:<7}  {:<20} {}\n", marks[f.state], f.what, f.text);
    if (!f.fix.empty()) fmt::print("{:<7}  {:<20} -> {}\n", "", "", f.fix);
    if (f.state == Finding::broken) broken.push_back(f.what);
  }
  fmt::print("{}\n", broken.empty()
                         ? std::string("An ordinary run (dsgd run sync) has all it needs; - marks what does "
                                       "not work here.")
                         : fmt::format("An ordinary run (dsgd run sync) lacks: {}", fmt::join(broken, ", ")));
  return broken.empty() ? 0 : 1;
}

}  // namespace dsgd
