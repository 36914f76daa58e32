"""What the tests of variants with AuxK share."""

from minisae.ops import decode, dense


def held_fixed(module, at, x, cfg, dead):
    """AuxK explains a residual that is held fixed (unless it reaches everything), with a code that may be, too."""
    first, cache = module.forward(at, x, cfg, dead=dead)

    def values(params, seen):
        out = module.forward(params, seen, cfg, dead=dead)[0]
        if out.aux is not None and cfg.auxk_reach == "decoder":
            out = out._replace(aux=decode(dense(cache.f_aux), params["W_dec"]))
        terms = module.objective(params, out, x, cfg, dead=dead)
        if out.aux is not None and cfg.auxk_reach != "everything":
            terms["auxk"] = module.objective(params, out._replace(x_hat=first.x_hat), x, cfg, dead=dead)["auxk"]
        return out, terms

    return values
