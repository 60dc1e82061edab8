// SPDX-License-Identifier: Apache-2.0
#pragma once

// Names that differ between SimGrid's versions from 3.32 to 4.x, and a declaration that none of its headers
// has.

#include <simgrid/version.h>

#include <simgrid/s4u.hpp>
#include <string>
#include <vector>

namespace simgrid::smpi::colls {
void set_collectives();  // makes the choice of smpi/coll-selector and its like
}

namespace dsgd::simgrid_versions {

namespace sg = simgrid::s4u;

#if SIMGRID_VERSION < 33400
constexpr const char *bandwidth_factor = "smpi/bw-factor", *latency_factor = "smpi/lat-factor";
#else
constexpr const char *bandwidth_factor = "network/bandwidth-factor",
                     *latency_factor = "network/latency-factor";
#endif

// A route from `from` to `to`; without `to`, to everything that the zone joins.
#if SIMGRID_VERSION < 33500
inline void add_route(sg::NetZone& zone, const sg::Host& from, const sg::Host* to,
                      const std::vector<sg::LinkInRoute>& links, bool both_ways) {
  zone.add_route(from.get_netpoint(), to ? to->get_netpoint() : nullptr, nullptr, nullptr, links, both_ways);
}
#else
inline void add_route(sg::NetZone& zone, const sg::Host& from, const sg::Host* to,
                      const std::vector<sg::LinkInRoute>& links, bool both_ways) {
  zone.add_route(&from, to, links, both_ways);
}
#endif

#if SIMGRID_VERSION < 40000
inline sg::NetZone& add_star(const sg::Engine&, const std::string& name) {
  return *sg::create_star_zone(name);
}
inline sg::Host* add_host(sg::NetZone& zone, const std::string& name, double speed) {
  return zone.create_host(name, speed);
}
inline sg::Link* add_link(sg::NetZone& zone, const std::string& name, double bandwidth) {
  return zone.create_link(name, bandwidth);
}
inline sg::Link* add_split_duplex_link(sg::NetZone& zone, const std::string& name, double bandwidth) {
  return zone.create_split_duplex_link(name, bandwidth);
}
#else
inline sg::NetZone& add_star(const sg::Engine& engine, const std::string& name) {
  return *engine.get_netzone_root()->add_netzone_star(name);
}
inline sg::Host* add_host(sg::NetZone& zone, const std::string& name, double speed) {
  return zone.add_host(name, speed);
}
inline sg::Link* add_link(sg::NetZone& zone, const std::string& name, double bandwidth) {
  return zone.add_link(name, bandwidth);
}
inline sg::Link* add_split_duplex_link(sg::NetZone& zone, const std::string& name, double bandwidth) {
  return zone.add_split_duplex_link(name, bandwidth);
}
#endif

}  // namespace dsgd::simgrid_versions
