// mlxterp/trace/proxy.h: names that read the pass being traced.

#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "mlx/array.h"
#include "mlxterp/trace/context.h"

namespace mlxterp {

/** A value of the pass being traced. Holds no value itself. */
class OutputProxy {
 public:
  OutputProxy(std::shared_ptr<const SiteCatalog> sites, SiteId site)
      : sites_(std::move(sites)), site_(site) {}

  /** Keeps the value beyond this thread's innermost trace. Throws usage outside
   * one, or inside one of another model. */
  Saved save() const;

  /** The lazy value inside the innermost trace. */
  mlx::core::array value() const;

  /** The canonical name of the site. */
  const std::string& name() const { return (*sites_)[site_].name; }

 private:
  TraceContext& context() const;

  std::shared_ptr<const SiteCatalog> sites_;
  SiteId site_;
};

/** A module, by path; or, at the end of a path, a site. */
class ModuleProxy {
 public:
  /** Throws unknown_name with the nearest names. */
  ModuleProxy(std::shared_ptr<const SiteCatalog> sites, std::string path);

  /** A part of it: `layer["self_attn"]`, `layer["attn"]["pattern"]`. */
  ModuleProxy operator[](std::string_view part) const;

  /** Its output; of a path that is itself a site, that site. */
  OutputProxy output() const;
  OutputProxy input() const;
  const std::string& path() const { return path_; }

 private:
  std::shared_ptr<const SiteCatalog> sites_;
  std::string path_;
};

/** The model's layers, by number; negative numbers count from the end. */
class LayerListProxy {
 public:
  explicit LayerListProxy(std::shared_ptr<const SiteCatalog> sites);

  /** Throws out_of_range. */
  ModuleProxy operator[](int layer) const;
  int size() const { return size_; }

 private:
  std::shared_ptr<const SiteCatalog> sites_;
  int size_ = 0;
};

}  // namespace mlxterp
