// SPDX-License-Identifier: Apache-2.0
#include "simulated/simulation.h"

#include <fmt/format.h>
#include <mpi.h>
#include <smpi/smpi.h>
#include <xbt/log.h>

#include <cstdlib>
#include <exception>
#include <iterator>
#include <simgrid/s4u.hpp>
#include <stdexcept>

#include "simulated/versions.h"

namespace dsgd {
namespace {

namespace sg = simgrid::s4u;
using namespace simgrid_versions;

[[noreturn]] void give_up(const std::string& why) {
  fmt::print(stderr, "{}\n", why);
  std::_Exit(1);  // the stacks of the ranks are still there
}

std::string some_of(const std::vector<sg::Host*>& hosts) {
  constexpr std::size_t most = 8;
  std::string names = hosts.empty() ? "none" : hosts[0]->get_cname();
  for (std::size_t i = 1; i < hosts.size() && i < most; ++i)
    names += fmt::format(", {}", hosts[i]->get_cname());
  return hosts.size() > most ? fmt::format("{}, ... {} in all", names, hosts.size()) : names;
}

}  // namespace

struct Simulation::Engine {
  Engine() {
    xbt_log_control_set("root.thres:critical root.fmt:%m%n");
    static char name[] = "dsgd";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // they know the stacks of threads alone
    static char stacks[] = "--cfg=contexts/factory:thread";
    char* words[] = {name, stacks, nullptr};
#else
    char* words[] = {name, nullptr};
#endif
    int count = int(std::size(words)) - 1;
    engine = std::make_unique<sg::Engine>(&count, words);
    // Bytes and seconds are those of the platform, without the factors that SimGrid has from clusters of its
    // own, without acknowledgements or a limit to TCP's window; and what is not charged takes no time.
    for (const char* setting : {"network/model:SMPI", "network/crosstraffic:no", "network/TCP-gamma:1e15"})
      sg::Engine::set_config(std::string(setting));
    for (const char* factor : {bandwidth_factor, latency_factor})
      sg::Engine::set_config(factor, std::string("0:1"));
  }
  void build(const Platform& platform);
  void load(const Platform& platform);
  void start() {
    SMPI_init();
    // As Open MPI over TCP: its algorithms, and up to 64 KiB travel before the receiver asks for them. For
    // short broadcasts, of which every new communicator makes one, SimGrid would take one of P*P messages;
    // and for MPI_Alltoallv one that needs a power of two.
    for (const char* setting :
         {"smpi/coll-selector:ompi", "smpi/bcast:binomial_tree", "smpi/alltoallv:ompi_basic_linear",
          "smpi/async-small-thresh:65536", "smpi/simulate-computation:no", "smpi/wtime:0", "smpi/test:0"})
      sg::Engine::set_config(std::string(setting));
    simgrid::smpi::colls::set_collectives();
    sg::Engine::on_deadlock_cb([] { give_up("dsgd: all ranks wait for each other for ever"); });
  }
  std::unique_ptr<sg::Engine> engine;
  std::vector<sg::Host*> hosts;
  int jobs = 0;
};

void Simulation::Engine::build(const Platform& platform) {
  sg::NetZone& zone = add_star(*engine, "cluster");
  sg::Link* backbone = nullptr;
  if (platform.backbone_bandwidth > 0 || platform.backbone_latency > 0) {
    const bool limits = platform.backbone_bandwidth > 0;
    backbone =
        add_link(zone, "backbone", limits ? platform.backbone_bandwidth : 1e15)
            ->set_sharing_policy(limits ? sg::Link::SharingPolicy::SHARED : sg::Link::SharingPolicy::FATPIPE)
            ->set_latency(platform.backbone_latency)
            ->seal();
  }
  for (const Platform::Host& host : platform.hosts) {
    const std::string number = std::to_string(hosts.size());
    sg::Host* const made = add_host(zone, "host-" + number, 1)->seal();  // time is charged in seconds
    const auto* const link =
        add_split_duplex_link(zone, "link-" + number, host.bandwidth)->set_latency(host.latency)->seal();
    std::vector<sg::LinkInRoute> route{{link, sg::LinkInRoute::Direction::UP}};
    if (backbone) route.emplace_back(backbone);
    add_route(zone, *made, nullptr, route, true);
    const auto* const memory = add_link(zone, "memory-" + number, platform.memory_bandwidth)
                                   ->set_latency(platform.memory_latency + host.wake)
                                   ->seal();
    add_route(zone, *made, made, {sg::LinkInRoute(memory)}, false);
    hosts.push_back(made);
  }
  zone.seal();
}

void Simulation::Engine::load(const Platform& platform) {
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(fmt::format("{}: {}", platform.file, what));
  };
  try {
    engine->load_platform(platform.file);
  } catch (const std::exception& e) {
    fail(fmt::format("is no SimGrid platform: {} (allowed: XML by SimGrid's DTD, version 4.1)", e.what()));
  }
  for (const Platform::Host& host : platform.hosts) {
    hosts.push_back(sg::Host::by_name_or_null(host.name));
    if (!hosts.back())
      fail(
          fmt::format("has no host \"{}\" (allowed: {}; hosts.NAME.names makes the name, with numbers below "
                      "hosts.NAME.count for {{}})",
                      host.name, some_of(engine->get_all_hosts())));
  }
  for (const sg::Host* host : hosts)
    if (host->get_speed() <= 0)
      fail(fmt::format("host {} has a speed of {:g} flop/s (allowed: above 0, such as speed=\"1Gf\")",
                       host->get_cname(), host->get_speed()));
  for (const sg::Host* from : hosts)
    for (const sg::Host* to : hosts) {
      std::vector<sg::Link*> links;
      double latency = 0;
      try {
        if (from != to) from->route_to(to, links, &latency);
      } catch (const std::exception&) {
        links.clear();
      }
      if (from != to && links.empty())
        fail(fmt::format(
            "has no route from {0} to {1} (allowed: routes between all hosts of the cluster; add a "
            "<route src=\"{0}\" dst=\"{1}\">)",
            from->get_cname(), to->get_cname()));
      for (const sg::Link* link : links)
        if (link->get_bandwidth() <= 0 || link->get_latency() < 0)
          fail(fmt::format(
              "link {} has a bandwidth of {:g} bytes/s and a latency of {:g} s (allowed: bandwidth above 0 "
              "and latency from 0 up, such as bandwidth=\"125MBps\" latency=\"25us\")",
              link->get_cname(), link->get_bandwidth(), link->get_latency()));
    }
}

Simulation::Simulation(const Platform& platform) : engine_(std::make_unique<Engine>()) {
  if (platform.file.empty())
    engine_->build(platform);
  else
    engine_->load(platform);
  engine_->start();
}

Simulation::~Simulation() { SMPI_finalize(); }

void Simulation::run(const std::vector<int>& hosts, const std::function<void(int rank)>& rank) {
  // From here on Open MPI takes Bruck's barrier, whose simulation takes many times longer than that of a
  // tree.
  if (hosts.size() >= 4096) {
    sg::Engine::set_config(std::string("smpi/barrier:ompi_tree"));
    simgrid::smpi::colls::set_collectives();
  }
  const std::string job = "job-" + std::to_string(engine_->jobs++);
  SMPI_app_instance_register(job.c_str(), nullptr, int(hosts.size()));
  for (int r = 0; r < int(hosts.size()); ++r) {
    const auto actor = sg::Actor::init("rank-" + std::to_string(r), engine_->hosts.at(hosts[r]));
    actor->set_property("instance_id", job);
    actor->set_property("rank", std::to_string(r));
    actor->start([&rank, r] {
      try {
        rank(r);
      } catch (const std::exception& e) {
        give_up(fmt::format("rank {}: {}", r, e.what()));
      }
    });
  }
  engine_->engine->run();
}

}  // namespace dsgd
