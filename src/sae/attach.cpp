#include "mlxterp/sae/attach.h"

#include <memory>

#include "core/fail.h"
#include "mlxterp/sae/module.h"
#include "sae/hooks.h"

namespace mlxterp {

namespace {

std::string called(const Sae& sae) {
  return sae.source.file.empty() ? "this SAE" : printable(sae.source.file);
}

// Numbers of a position; 0: not said.
int width_of(const SiteCatalog::Site& site) {
  return site.layout == Layout::heads ? site.width * site.n_heads : site.width;
}

// Throws usage where rows of `width` numbers cannot stand there.
void check_width(
    const SiteCatalog::Site& site,
    int width,
    std::string_view verb,
    const Sae& sae) {
  if (site.layout != Layout::features && site.layout != Layout::heads)
    fail(
        ErrorKind::usage,
        "[sae] {} cannot stand at '{}', which has no row of features for each "
        "position",
        called(sae),
        site.name);
  if (const int own = width_of(site); own != 0 && own != width)
    fail(
        ErrorKind::usage,
        "[sae] {} {} {} numbers, and '{}' has {}; is it the SAE of another "
        "model{}, or of another site?",
        called(sae),
        verb,
        width,
        site.name,
        own,
        sae.source.model.empty()
            ? std::string()
            : fmt::format(" (its file says {})", printable(sae.source.model)));
}

const SiteCatalog::Site& site_named(
    const InterpretableModel& model, const Sae& sae, const std::string& name) {
  if (!name.empty()) return model.sites()[model.sites().find(name)];
  fail(
      ErrorKind::usage,
      "[sae] {} does not say where it belongs{}; name a site, such as "
      "layers.5.resid_post",
      called(sae),
      sae.source.hook_in.empty()
          ? std::string()
          : fmt::format(" (its hook is '{}')", printable(sae.source.hook_in)));
}

}  // namespace

SaeSites sae_sites(
    const InterpretableModel& model,
    const Sae& sae,
    const std::string& site,
    const std::string& reads) {
  if (sae.kind != SaeKind::transcoder) {
    if (!reads.empty() && reads != site)
      fail(
          ErrorKind::usage,
          "[sae] {} is no transcoder: it reads the site it belongs to; leave "
          "out '{}'",
          called(sae),
          printable(reads));
    const auto& at =
        site_named(model, sae, site.empty() ? sae.source.site_in : site);
    check_width(at, sae.d_in(), "reads", sae);
    return {at.name, at.name};
  }
  const auto& to =
      site_named(model, sae, site.empty() ? sae.source.site_out : site);
  auto from = reads.empty() ? sae.source.site_in : reads;
  if (const int layer = layer_of_site(from);
      reads.empty() && layer >= 0 && to.layer >= 0 && layer != to.layer)
    from = fmt::format("layers.{}{}", to.layer, from.substr(from.find('.', 7)));
  const auto& in = site_named(model, sae, from);
  check_width(in, sae.d_in(), "reads", sae);
  check_width(to, sae.d_out(), "writes", sae);
  return {in.name, to.name};
}

InterpretableModel attach_sae(
    const InterpretableModel& model, Sae sae, const SaeAttachOptions& options) {
  check(sae);
  const auto sites = sae_sites(model, sae, options.site, options.reads);
  if (sae.kind == SaeKind::cross_layer &&
      options.mode != AttachOptions::Mode::read)
    fail(
        ErrorKind::usage,
        "[sae] {} writes {} layers and cannot take one site's place; attach it "
        "with mode 'read'",
        called(sae),
        sae.targets());
  if (options.check_on) check_fit(model, sae, *options.check_on, sites);
  return model.attach(
      sites.writes,
      std::make_shared<SaeModule>(std::move(sae)),
      {.mode = options.mode,
       .name = options.name,
       .by_position = true,
       .reads = sites.reads});
}

}  // namespace mlxterp
