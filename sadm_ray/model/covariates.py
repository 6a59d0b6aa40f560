"""What is known of a subject or a visit besides its scans (age, sex, diagnosis, …), as tokens to attend to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.config import CovariateSettings
from sadm_ray.model.layers import Fourier


class Covariate(nn.Module):
    """One number or category as an embedding. What is missing is masked by the caller; any value will do for it."""

    def __init__(self, settings: CovariateSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.embed = nn.Embedding(len(settings.levels), width) if settings.levels else Fourier(1, width)

    def forward(self, values: Float[Tensor, "*b"]) -> Float[Tensor, "*b width"]:
        if self.settings.levels:
            return self.embed(values.long())
        return self.embed(((values - self.settings.mean) / self.settings.deviation)[..., None])


class Covariates(nn.Module):
    """All of them: one token for each of the subject's, one for each of every visit's, with when the visit was.

    Values are numbers; a category's is the index of its level; NaN is missing. A visit's are known only where its frame
    is observed.
    """

    def __init__(self, settings: Sequence[CovariateSettings], width: int) -> None:
        super().__init__()
        self.subject = nn.ModuleList(Covariate(each, width) for each in settings if each.of == "subject")
        self.visit = nn.ModuleList(Covariate(each, width) for each in settings if each.of == "visit")

    def forward(
        self,
        subject: Float[Tensor, "b n"] | None,
        visit: Float[Tensor, "b t m"] | None,
        observed: Bool[Tensor, "b t"],
        when: Float[Tensor, "b t e"],
    ) -> tuple[Float[Tensor, "b k e"], Bool[Tensor, "b k"]] | None:
        """The tokens and which of them count; none where there are none.

        Args:
            when: the embedding of each visit's time.
        """
        tokens, known = [], []
        if subject is not None and len(self.subject):
            here = torch.isfinite(subject)
            values = subject.nan_to_num(0.0, 0.0, 0.0)
            tokens.append(torch.stack([each(values[:, i]) for i, each in enumerate(self.subject)], dim=1))
            known.append(here)
        if visit is not None and len(self.visit):
            here = torch.isfinite(visit) & observed[..., None]
            values = torch.where(here, visit, 0.0)
            embedded = torch.stack([each(values[..., i]) for i, each in enumerate(self.visit)], dim=2)
            tokens.append((embedded + when[:, :, None]).flatten(1, 2))
            known.append(here.flatten(1, 2))
        if not tokens:
            return None
        return torch.cat(tokens, dim=1), torch.cat(known, dim=1)


def with_visit(
    visits: Float[Tensor, "b t v"] | None, visit: Float[Tensor, "b v"] | None, slots: int
) -> Float[Tensor, "b t+1 v"] | None:
    """The covariates of `slots` visits and those of one more; NaN where only one of the two is given."""
    if visits is None:
        if visit is None:
            return None
        visits = torch.full_like(visit[:, None], torch.nan).expand(-1, slots, -1)
    last = torch.full_like(visits[:, :1], torch.nan) if visit is None else visit[:, None]
    return torch.cat([visits, last], dim=1)
