from .backends.source import open_source as open_source
from .backends.store import open_store as open_store
from .datamodel.fits_decoder import decode as decode
from .errors import BuildError as BuildError
from .errors import GZ3DError as GZ3DError
from .errors import IncompleteStoreError as IncompleteStoreError
from .errors import LeftOutWarning as LeftOutWarning
from .errors import PlanError as PlanError
from .errors import SourceError as SourceError
from .errors import Status as Status
from .errors import StoreError as StoreError
from .errors import SubjectError as SubjectError
from .errors import UsageError as UsageError
from .export.store import subset as subset
from .pipeline.build import build as build
from .pipeline.build import plan as plan
from .pipeline.copy import copy as copy
from .pipeline.subset import SubsetReport as SubsetReport
from .pipeline.verify import verify as verify
from .viewer.links import neuroglancer_link as neuroglancer_link
from .viewer.page import page as page
from .viewer.view import view as view

__version__: str
