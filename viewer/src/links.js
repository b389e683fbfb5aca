/** Links to other sites, built from numbers; and the Python line that opens a subject. */

/**
 * @param {number} ra @param {number} dec
 * @param {string} manga
 * @returns {[string, string][]} Text and address.
 */
export function outsideLinks(ra, dec, manga) {
  /** @type {[string, string][]} */
  const links = [];
  if (Number.isFinite(ra) && Number.isFinite(dec)) {
    const [a, d] = [ra.toFixed(6), dec.toFixed(6)];
    links.push(["SDSS explore", `https://skyserver.sdss.org/dr17/VisualTools/explore/summary?ra=${a}&dec=${d}`]);
    links.push(["Legacy Surveys", `https://www.legacysurvey.org/viewer?ra=${a}&dec=${d}&layer=ls-dr9&zoom=15&mark=${a},${d}`]);
  }
  const parts = /^(\d{1,6})-(\d{1,9})$/.exec(manga);
  if (parts) links.push(["Marvin", `https://dr17.sdss.org/marvin/galaxy/${parts[1]}-${parts[2]}/`]);
  return links;
}

/** @param {string} store @param {number} id Zooniverse id. */
export function pythonLine(store, id) {
  return `import gz3d_zarr; ds = gz3d_zarr.open_store(${JSON.stringify(store)}).gz3d.sel(zooniverse_subject_id=${id})`;
}
