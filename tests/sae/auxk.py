"""What the tests of variants with AuxK share."""

from minisae.ops import decode, dense
from minisae.sae import linear, split


def held_fixed(module, at, rows, cfg, dead):
    """AuxK explains a residual that is held fixed (unless it reaches everything), with a code that may be, too."""
    x, y = split(module, rows, cfg)
    first, cache = module.forward(at, x, cfg, dead=dead)
    main = getattr(cache, "main", cache)
    bias = getattr(cfg, "auxk_bias", False)

    def values(params, seen):
        out = module.forward(params, seen, cfg, dead=dead)[0]
        if getattr(cfg, "selected_zero", "blocked") == "passes":
            out = zeros_move(params, out, seen)
        if out.aux is not None and cfg.auxk_reach == "decoder":
            out = out._replace(aux=decode(dense(main.f_aux), params["W_dec"]))
            out = out._replace(aux=out.aux + params["b_dec"][..., None, :]) if bias else out
        if getattr(cfg, "multi_reach", "latents") == "decoder":
            out = out._replace(wide=linear.reconstruct(params, dense(cache.f_wide)))
        terms = module.objective(params, out, y, cfg, dead=dead)
        if out.aux is not None:
            known = out if cfg.auxk_reach == "everything" else out._replace(x_hat=first.x_hat)
            fixed = params | {"b_dec": at["b_dec"]} if bias else params
            terms["auxk"] = module.objective(fixed, known, y, cfg, dead=dead)["auxk"]
        return out, terms

    def zeros_move(params, out, seen):
        """The selected zeros as linear functions of pre-activations, which they are where no slope stops at 0."""
        pre = linear.encode(params, seen, subtract_b_dec=cfg.subtract_b_dec)[1]
        before = linear.encode(at, x, subtract_b_dec=cfg.subtract_b_dec)[1]
        moved = (pre - before) * ((dense(main.passed) != 0) & (dense(main.f) == 0))
        return out._replace(f=dense(out.f) + moved, x_hat=out.x_hat + moved @ params["W_dec"])

    return values
